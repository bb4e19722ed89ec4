"""Who may: one line of an `allow` list, as a value.

    uid:alice   gid:27   cert:ci.example.com   proxy-user:ci   ssh-user:ops   site:factory-7   any

Who a caller is, is written in the same words, so that to compare them is to compare text.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Annotated, Final, Self

from proxy.config.values import Written, from_text
from proxy.runtime.text import shown

KINDS: Final = ("uid", "gid", "cert", "proxy-user", "ssh-user", "site")
ANY: Final = "any"
"""The rule that lets everybody in, callers that nobody knows included."""

_NUMBERED: Final = frozenset({"uid", "gid"})
_MOST: Final = 2**32 - 2
"""The largest uid; the next one is -1, which means none (chown(2))."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of caller, and the name or number of the one that may come in."""

    kind: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else self.kind

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `KIND:NAME` or `any`. Raises ValueError, which says what is expected."""
        if text == ANY:
            return cls(ANY)
        kind, _, name = text.partition(":")
        if kind not in KINDS or not name:
            expected = ", ".join(f"{one}:NAME" for one in KINDS)
            raise ValueError(f"expected {expected} or {ANY}, got {shown(text)}")
        if not name.isprintable() or name != name.strip() or len(name) > 253:
            raise ValueError(f"expected 1 to 253 printable characters after {kind}:, got {shown(name)}")
        if kind in _NUMBERED and name.isascii() and name.isdecimal():
            if len(name) > 18 or int(name) > _MOST:
                raise ValueError(f"{kind} {shown(name)} is larger than {_MOST}")
            name = str(int(name))
        return cls(kind, certificate_name(name) if kind == "cert" else name)


def certificate_name(name: str) -> str:
    """`name` of a certificate as rules and callers have it: an address in its shortest form, a host in lower
    case. In URIs and email addresses case counts.
    """
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name if {":", "@"} & set(name) else name.lower()


Allowed = Annotated[Rule, Written(from_text(Rule, "KIND:NAME"), rf"^({ANY}|({'|'.join(KINDS)}):.{{1,253}})$")]
"""A line of an `allow` list."""
