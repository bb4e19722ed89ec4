"""How many connections there may be that have not logged in yet. Pure.

Whoever has not logged in may be anybody. So they are limited in number, all together and of each source. They
never take the place of somebody from one's own networks (`sources`), who count apart, and wait for their turn
when many come at once.
"""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final, NamedTuple

from proxy.config.model import SshServerConfig
from proxy.config.ssh_server import SourceConfig
from proxy.runtime.endpoint import Endpoint

_PREFIX: Final = {4: 32, 6: 64}
"""Bits of an address that make one source: whoever has an IPv6 address usually has its whole /64."""


_NONE: Final = SshServerConfig(listen=Endpoint("127.0.0.1", 0), host_keys=())
"""Until there is a configuration; no client comes before."""


class Source(NamedTuple):
    """Where a connection comes from."""

    network: IPv4Network | IPv6Network
    own: SourceConfig | None
    """Which of `sources` it is of; None for strangers."""

    def __str__(self) -> str:
        return str(self.network).removesuffix(f"/{self.network.max_prefixlen}")


class Startups:
    """Counts the connections before their login."""

    def __init__(self) -> None:
        self.config = _NONE
        self._by_source: Counter[Source] = Counter()
        self._strangers = 0

    def __len__(self) -> int:
        return self._by_source.total()

    def source(self, host: str) -> Source:
        """The source that the address `host` is of."""
        address = ip_address(host.partition("%")[0])
        for own in self.config.sources:
            if any(address in network for network in own.networks):
                return Source(own.networks[0], own)
        return Source(ip_network((address, _PREFIX[address.version]), strict=False), None)

    def enter(self, source: Source) -> bool:
        """Count one more of `source`; False if there are too many already."""
        of_it = self._by_source[source]
        if source.own is not None:
            if of_it >= source.own.max_startups:
                return False
        elif self._strangers >= self.config.max_startups or of_it >= self.config.per_source_max_startups:
            return False
        else:
            self._strangers += 1
        self._by_source[source] += 1
        return True

    def leave(self, source: Source) -> None:
        """One of `source` has logged in, or has gone."""
        self._by_source[source] -= 1
        if not self._by_source[source]:
            del self._by_source[source]
        if source.own is None:
            self._strangers -= 1
