"""One rule of an `allow` list.

    uid:alice   gid:27   cert:ci.example.com   proxy-user:ci   ssh-user:ops   site:factory-7   any

The identities of a caller are written in the same form, so a rule matches if the texts are equal.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Annotated, Final, Self

from proxy.config.written import Written, from_text
from proxy.runtime.text import shown

KINDS: Final = ("uid", "gid", "cert", "proxy-user", "ssh-user", "site")
ANY: Final = "any"
"""The rule that allows everybody, also callers who are not known."""

_NUMBERED: Final = frozenset({"uid", "gid"})
_MOST: Final = 2**32 - 2
"""The largest uid. The next number is (uid_t) -1, which means no user (chown(2))."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A kind of identity, and the name or number of the caller that is allowed."""

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
    """A name in a certificate, in the form for comparison: an address in its shortest form, a host in lower
    case. URIs and email addresses stay as they are.
    """
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name if {":", "@"} & set(name) else name.lower()


Allowed = Annotated[Rule, Written(from_text(Rule, "KIND:NAME"), rf"^({ANY}|({'|'.join(KINDS)}):.{{1,253}})$")]
"""The type of an `allow` list's items."""
