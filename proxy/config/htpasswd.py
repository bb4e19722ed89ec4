r"""Parses files of users and passwords in the format of Apache's htpasswd(1), with bcrypt only. Pure.

    # a comment
    ci:$2y$12$zS5lIXQjT7m3FzEhRjqfyOhYRgS7Y4mPfV4ZJd8G2xNn0B0pTn2aG

Other hashes are refused, because they are fast: somebody who gets the file could find passwords by trying.
MD5 (`$apr1$`) is htpasswd's default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

_BCRYPT: Final = re.compile(rb"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}")
LEAST_COST: Final = 4
MOST_COST: Final = 14
"""The largest accepted cost, with which a check takes a second of one core. Each step doubles the time."""

Accounts = Mapping[str, bytes]
"""The bcrypt hash of each user."""


class Line(NamedTuple):
    """A line that cannot be used. Its contents are not shown: it may be a password."""

    number: int
    message: str
    hint: str


def parse(data: bytes, *, path: object = "FILE") -> tuple[Accounts, tuple[Line, ...]]:
    """The users in `data`, and the lines that cannot be used; `path` is for their hints."""
    accounts: dict[str, bytes] = {}
    bad = []
    for number, line in enumerate(data.split(b"\n"), 1):
        text = line.strip()
        if not text or text.startswith(b"#"):
            continue
        found = _account(number, text, path)
        if isinstance(found, Line):
            bad.append(found)
        elif found[0] in accounts:
            bad.append(Line(number, f"{found[0]!r} has a line before this one", "remove one of the two"))
        else:
            accounts[found[0]] = found[1]
    return MappingProxyType(accounts), tuple(bad)


def _account(number: int, line: bytes, path: object) -> tuple[str, bytes] | Line:
    name, colon, hashed = line.partition(b":")
    if not colon or not name:
        return Line(number, "is not NAME:HASH", f"let htpasswd write it: htpasswd -B -C 12 {path} NAME")
    try:
        user = name.decode()
    except UnicodeDecodeError:
        return Line(number, "has a name that is not UTF-8", "write the file in UTF-8")
    if not user.isprintable():
        return Line(number, "has a name that cannot be printed", "choose another name")
    match = _BCRYPT.fullmatch(hashed)
    if match is None:
        hint = f"hash it with bcrypt: htpasswd -B -C 12 {path} {user}"
        return Line(number, f"has no bcrypt hash for {user!r}", hint)
    if not LEAST_COST <= int(match[1]) <= MOST_COST:
        hint = f"choose a cost from {LEAST_COST} to {MOST_COST}: htpasswd -B -C 12 {path} {user}"
        return Line(number, f"has a hash of cost {int(match[1])} for {user!r}", hint)
    return user, hashed
