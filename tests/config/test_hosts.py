"""Which host names of clients are dialled: none that a shell could interpret, and no path or option."""

from __future__ import annotations

import shlex
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.hosts import is_host


@pytest.mark.parametrize(
    "name", ["node-a", "node_a", "nb-0.team-a", "10.1.0.7", "fd00::7", "::1", "a", "A.example.com", "1" * 63]
)
def test_valid_hosts_are_accepted(name: str) -> None:
    assert is_host(name)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            ".",
            "..",
            "a..b",
            ".a",
            "a.",
            "-a",
            "a.-b",
            "-oProxyCommand=x",
            "a b",
            "a\n",
            "a\0b",
            "a;b",
            "$(a)",
        ),
        *(
            "a/b",
            "../a",
            "~a",
            "a@b",
            "[::1]",
            "fe80::1%eth0",
            "1:2",
            "a:22",
            "ä",
            "a" * 64,
            "a." * 127 + "a",
        ),
        *("%h", "{host}", "`a`", "a|b", "a*", "a?", "a,b", "a=b", "a\\b", "'a'", "!a"),
    ],
)
def test_invalid_hosts_are_refused(name: str) -> None:
    assert not is_host(name)


@given(st.text(st.sampled_from("aA0-_.:%/\\;$` \n\0~@[]{}*ä"), max_size=12) | st.text(max_size=12))
def test_valid_names_are_one_word_and_one_file_name(name: str) -> None:
    if is_host(name):
        assert name.isascii()
        assert shlex.split(name, comments=True) == [name]
        assert not name.startswith("-")
        assert PurePosixPath("/keys", name).parent == PurePosixPath("/keys")
        assert name not in {".", ".."}
