"""Limits the connections that have not logged in yet, as sshd's MaxStartups does. Pure.

Anybody can open such a connection, so their number is limited, in total and per source. Connections from the
operator's own networks (`sources`) are counted separately, so strangers cannot use up their places. If many
of them come at once, they wait for their turn.
"""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final, NamedTuple

from proxy.config.model import SshServerConfig
from proxy.config.ssh_server import SourceConfig
from proxy.runtime.endpoint import Endpoint

_PREFIX: Final = {4: 32, 6: 64}
"""Addresses with the same first bits are one source: a client with an IPv6 address usually has
its whole /64.
"""


_NONE: Final = SshServerConfig(listen=Endpoint("127.0.0.1", 0), host_keys=())
"""The configuration until `SshServer.use` sets the real one. No client is accepted before that."""


class Source(NamedTuple):
    """Where a connection comes from."""

    network: IPv4Network | IPv6Network
    own: SourceConfig | None
    """The item of `sources` that it belongs to; None for strangers."""

    def __str__(self) -> str:
        return str(self.network).removesuffix(f"/{self.network.max_prefixlen}")


class Startups:
    """Counts the connections that have not logged in yet."""

    def __init__(self) -> None:
        self.config = _NONE
        self._by_source: Counter[Source] = Counter()
        self._strangers = 0

    def __len__(self) -> int:
        return self._by_source.total()

    def source(self, host: str) -> Source:
        """The source that the address `host` belongs to."""
        address = ip_address(host.partition("%")[0])
        for own in self.config.sources:
            if any(address in network for network in own.networks):
                return Source(own.networks[0], own)
        return Source(ip_network((address, _PREFIX[address.version]), strict=False), None)

    def enter(self, source: Source) -> bool:
        """Count a connection of `source`. Returns False, and does not count it, if the limit is reached."""
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
        """Count one connection of `source` less: it has logged in or is closed."""
        self._by_source[source] -= 1
        if not self._by_source[source]:
            del self._by_source[source]
        if source.own is None:
            self._strangers -= 1
