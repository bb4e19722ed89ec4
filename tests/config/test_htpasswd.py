"""Which lines of a users file can be used, and the messages for the others."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

import bcrypt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.htpasswd import parse

HASH: Final = b"$2y$05$534QUPlOlvAbGkK0JZRzXuD4ZPkO.e7sIAp4mfK7kbbthhKhEhdeu"
SHA1: Final = b"{SHA}6dcfXufJLW3J6S/9rRe4vUlBj5g="


def test_users_are_read_and_comments_and_empty_lines_are_skipped() -> None:
    text = b"# the machines\n\nci:%b\r\n  argo-cd:%b  \n#old:%b\n" % (HASH, HASH, HASH)
    accounts, bad = parse(text)
    assert accounts == {"ci": HASH, "argo-cd": HASH}
    assert bad == ()


def test_an_empty_file_has_no_users() -> None:
    assert parse(b"") == ({}, ())


@pytest.mark.parametrize("prefix", [b"$2a$", b"$2b$", b"$2y$"])
def test_all_three_prefixes_of_bcrypt_are_accepted(prefix: bytes) -> None:
    hashed = prefix + HASH[4:]
    assert parse(b"ci:" + hashed) == ({"ci": hashed}, ())
    assert bcrypt.checkpw(b"x", hashed)


@pytest.mark.parametrize(
    "hashed",
    [
        b"$apr1$P6G1wrux$3ICV79SSXYlTlm3MMt5eM0",
        SHA1,
        b"lB6PoDpFt79FA",
        b"in clear",
        b"",
        b"$6$TaqnDIfx2wN/nNSY$1d8if6JkUAsxCFuHvAicpcBkgVz7de5NYqLCgyfDe0LA",
        b"$2x$" + HASH[4:],  # crypt_blowfish's own bug of 2011
        HASH[:-1],
        HASH + b"u",
        HASH + b":a comment",
    ],
)
def test_other_hashes_are_refused_with_a_remedy_and_not_shown(hashed: bytes) -> None:
    accounts, bad = parse(b"# users\nargo:%b\nci:%b\n" % (HASH, hashed), path="/etc/kubemux/users")
    assert accounts == {"argo": HASH}
    [(number, message, hint)] = bad
    assert (number, message) == (3, "has no bcrypt hash for 'ci'")
    assert hint == "hash it with bcrypt: htpasswd -B -C 12 /etc/kubemux/users ci"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"a password alone", "is not NAME:HASH"),
        (b":" + HASH, "is not NAME:HASH"),
        (b"\xff:" + HASH, "has a name that is not UTF-8"),
        (b"c\x1bi:" + HASH, "has a name that cannot be printed"),
        (b"ci:$2y$15$" + HASH[7:], "has a hash of cost 15 for 'ci'"),
        (b"ci:$2y$03$" + HASH[7:], "has a hash of cost 3 for 'ci'"),
        (b"argo:" + HASH, "'argo' has a line before this one"),
    ],
)
def test_a_line_that_cannot_be_used_is_named_by_its_number(line: bytes, message: str) -> None:
    accounts, bad = parse(b"argo:%b\n%b\n" % (HASH, line))
    assert accounts == {"argo": HASH}
    assert [(found.number, found.message) for found in bad] == [(2, message)]
    assert "password alone" not in str(bad)


@pytest.mark.htpasswd
def test_a_file_that_htpasswd_writes_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "users"
    for options, user in (("-Bic", "ci"), ("-Bi", "argo"), ("-mi", "old")):
        command = ["htpasswd", options, str(path), user]
        subprocess.run(command, input=f"of {user}", text=True, capture_output=True, timeout=60, check=True)
    accounts, bad = parse(path.read_bytes())
    assert {user: bcrypt.checkpw(f"of {user}".encode(), accounts[user]) for user in accounts} == {
        "ci": True,
        "argo": True,
    }
    assert [(line.number, line.message) for line in bad] == [(3, "has no bcrypt hash for 'old'")]


NAMES: Final = st.text("ab.-@#é ", min_size=1, max_size=6).filter(
    lambda name: name == name.strip() and not name.startswith("#")
)


@given(st.dictionaries(NAMES, st.just(HASH), max_size=4))
def test_a_written_file_can_be_read(accounts: dict[str, bytes]) -> None:
    text = b"".join(b"%b:%b\n" % (name.encode(), hashed) for name, hashed in accounts.items())
    assert parse(text) == (accounts, ())


@given(
    st.binary(max_size=200)
    | st.lists(st.sampled_from([b"ci", b":", HASH, b"\n", b"#", b":" + SHA1, b" "])).map(b"".join)
)
def test_each_line_of_any_file_is_a_user_or_is_refused(data: bytes) -> None:
    accounts, bad = parse(data)
    lines = [line.strip() for line in data.split(b"\n")]
    assert len(accounts) + len(bad) == len([line for line in lines if line and not line.startswith(b"#")])
    assert all(name.isprintable() and ":" not in name for name in accounts)
    for line in bad:
        name, _, secret = lines[line.number - 1].partition(b":")
        assert (line.message + line.hint).isprintable()
        assert secret in name or len(secret) < 8 or secret.decode("latin1") not in line.message + line.hint
