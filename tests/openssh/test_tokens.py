"""Tokens, variables and `~` by ssh_config(5). test_ssh_config.py compares them with ssh(1) itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.openssh.tokens import expand, tilde

TOKENS = {"h": "host", "p": "22", "%": "never looked up", "d": "/home/%u/${X}"}
ENVIRON = {"X": "%h", "EMPTY": ""}

plain = st.text(alphabet=st.characters(exclude_characters="%$"))


@given(st.lists(plain | st.sampled_from(["%h", "%p", "%%", "%d", "${X}", "${EMPTY}"])))
def test_each_part_is_expanded_once_and_the_rest_stays(parts: list[str]) -> None:
    meant = {"%h": "host", "%p": "22", "%%": "%", "%d": TOKENS["d"], "${X}": "%h", "${EMPTY}": ""}
    assert expand("".join(parts), TOKENS, ENVIRON) == "".join(meant.get(part, part) for part in parts)


@given(plain)
def test_text_without_tokens_stays_unchanged(text: str) -> None:
    assert expand(text, {}, {}) == text
    if not text.startswith("{"):  # after a `$` it begins a variable
        assert expand(f"{text}${text}", {}, {}) == f"{text}${text}"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("%Q", "no token %Q"),
        ("%", "no token %"),
        ("a%\n", "no token"),
        ("${NOT_SET}", "NOT_SET is not set"),
        ("${", "no variable"),
    ],
)
def test_tokens_that_ssh_rejects_are_errors(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        expand(text, TOKENS, ENVIRON)


def test_variables_are_not_expanded_without_an_environment() -> None:
    assert expand("${X} %h", TOKENS) == "${X} host"


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("~", "/home/me/"),
        ("~/k", "/home/me/k"),
        ("~//k", "/home/me/k"),
        ("~you/k", "/home/you/k"),
        ("~you", "/home/you/"),
        ("/a/~/k", "/a/~/k"),
        ("k~", "k~"),
    ],
)
def test_a_leading_tilde_becomes_a_home(text: str, meant: str) -> None:
    assert tilde(text, lambda user: f"/home/{user or 'me'}") == meant
