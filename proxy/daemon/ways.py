"""The way of each cluster and route: a gateway, a host of a gateway pattern, a site, or direct."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from proxy.config.model import DIRECT, ClusterConfig, Config, RouteConfig
from proxy.config.rules import own_listener, own_listeners
from proxy.daemon.routed import Routed, WayTo
from proxy.daemon.served import ServedCluster
from proxy.daemon.served_site import ServedSite
from proxy.relay.direct import Direct
from proxy.relay.interfaces import Way
from proxy.runtime.names import is_here
from proxy.ssh.supervision.gateway import Gateway
from proxy.ssh.supervision.patterns import PatternGateway


class Ways:
    """Finds ways. `gateways` and `sites` are the daemon's own mappings: a reload changes them in place.
    `config` returns the current configuration.
    """

    def __init__(
        self,
        gateways: Mapping[str, Gateway | PatternGateway],
        sites: Mapping[str, ServedSite],
        config: Callable[[], Config],
    ) -> None:
        self._gateways = gateways
        self._sites = sites
        self._config = config

    def of(self, config: ClusterConfig) -> Way:
        """The way of a cluster. Its gateway is never a pattern: `proxy.config.rules` refuses that."""
        if config.gateway in self._sites:
            return self._sites[config.gateway].site
        gateway = None if config.gateway == DIRECT else self._gateways[config.gateway]
        return gateway if isinstance(gateway, Gateway) else self._direct()

    def to(self, config: RouteConfig) -> WayTo:
        """A function that returns a route's way to a requested host."""
        direct = self._direct()

        def way_to(host: str) -> Way:
            if config.gateway == DIRECT:
                return direct
            if config.gateway in self._sites:
                return self._sites[config.gateway].site
            gateway = self._gateways[config.gateway]
            return gateway.way(host) if isinstance(gateway, PatternGateway) else gateway

        return way_to

    def _direct(self) -> Direct:
        return Direct(lambda address: own_listener(own_listeners(self._config()), address, is_here))


Destination = ServedCluster | Routed | ServedSite
"""What clients connect to."""


def through(
    way: str,
    clusters: Mapping[str, ServedCluster],
    routes: Mapping[str, Routed],
    sites: Mapping[str, ServedSite],
) -> dict[str, Destination]:
    """All destinations behind a gateway or site, as `cluster NAME`, `route NAME` and `site NAME`."""
    return {
        **{f"cluster {name}": one for name, one in clusters.items() if one.cluster.config.gateway == way},
        **{f"route {name}": one for name, one in routes.items() if one.config.gateway == way},
        **({f"site {way}": sites[way]} if way in sites else {}),
    }
