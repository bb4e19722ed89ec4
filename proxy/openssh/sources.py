"""Lists of addresses, as `from=` of authorized_keys has them (sshd(8), ssh_config(5) PATTERNS). Pure.

    10.0.0.0/8,!10.9.0.0/16,192.0.2.*,fd00::/8

A pattern after `!` is an exception, at any place of the list. Host names are refused. kubemux does not
resolve addresses to names (like sshd with `UseDNS no`, its default), so an exception for a name would never
match, and let in the host that it is meant to keep out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Final, Self

Address = IPv4Address | IPv6Address

_MAPPED: Final = IPv6Network("::ffff:0:0/96")
_STARRED: Final = re.compile(r"(?=.*[*?])([0-9.*?]+|[0-9A-Fa-f:.*?]*:[0-9A-Fa-f:.*?]*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Pattern:
    """One pattern: a network, or text with wildcards."""

    text: str
    network: IPv4Network | IPv6Network | None
    is_exception: bool

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read one pattern. Raises ValueError."""
        is_exception = text.startswith("!")
        bare = text.removeprefix("!")
        if _STARRED.fullmatch(bare):
            return cls(bare.lower(), None, is_exception)
        try:
            network = ip_network(bare)
        except ValueError as exc:
            if "has host bits set" in str(exc):
                raise ValueError(f"{bare!r} is an address within a network") from exc
            raise ValueError(f"{bare!r} is not an address, a network, or an address with * and ?") from exc
        # The address of a client is IPv4 then, and it has no zone: an exception would never match.
        if "%" in bare or (network.version == 6 and network.subnet_of(_MAPPED)):
            raise ValueError(f"{bare!r} is not how addresses of clients are written: 10.0.0.1, fe80::1")
        return cls(bare, network, is_exception)

    def matches(self, address: Address) -> bool:
        if self.network is not None:
            return address in self.network
        expression = re.escape(self.text).replace(r"\*", ".*").replace(r"\?", ".")
        return re.fullmatch(expression, str(address)) is not None


@dataclass(frozen=True, slots=True)
class Sources:
    """A list of patterns."""

    patterns: tuple[Pattern, ...]

    def __str__(self) -> str:
        return ",".join(f"{'!' * one.is_exception}{one.text}" for one in self.patterns)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a list of patterns. Raises ValueError."""
        return cls(tuple(map(Pattern.parse, text.split(","))))

    def include(self, address: Address) -> bool:
        """Whether a pattern matches, and no exception does."""
        found = [one.is_exception for one in self.patterns if one.matches(address)]
        return bool(found) and not any(found)
