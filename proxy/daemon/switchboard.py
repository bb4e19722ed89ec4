"""Passes each client of an entry to its destination: the cluster, route or site that it asks for."""

from __future__ import annotations

from collections.abc import Mapping

from proxy.config.model import Config
from proxy.daemon.routed import Routed
from proxy.daemon.served import ServedCluster
from proxy.daemon.served_site import ServedSite
from proxy.entries.arrival import Arrival
from proxy.errors import UnknownTarget
from proxy.routing.names import Names, ToCluster, ToSite


class Switchboard:
    """Finds the destination of each client by name."""

    def __init__(
        self,
        config: Config,
        clusters: Mapping[str, ServedCluster],
        routes: Mapping[str, Routed],
        sites: Mapping[str, ServedSite],
    ) -> None:
        """`clusters`, `routes` and `sites` are the daemon's own mappings. A reload changes them, and calls
        `reconfigure`.
        """
        self._names = Names(config, self._find_pod)
        self._clusters = clusters
        self._routes = routes
        self._sites = sites

    def reconfigure(self, config: Config) -> None:
        """Use the names of another configuration for new clients."""
        self._names = Names(config, self._find_pod)

    def accept(self, arrival: Arrival) -> None:
        """Serve a client that has asked for a name, or refuse it."""
        assert arrival.asked is not None  # noqa: S101 - a cluster's own listener does not use a switchboard
        try:
            decision = self._names.find(arrival.asked, arrival.entry)
            if isinstance(decision, ToCluster):
                self._cluster(decision.cluster).accept(arrival)
            elif isinstance(decision, ToSite):
                self._site(decision.site).accept(arrival, decision.target)
            else:
                self._route(decision.route.name).accept(arrival, decision)
        except UnknownTarget as exc:
            arrival.refuse(exc.reason, str(exc))
            arrival.ended(exc.reason)
            arrival.log_refused(exc.reason, message=str(exc))

    def _cluster(self, name: str) -> ServedCluster:
        if (cluster := self._clusters.get(name)) is None:  # a reload is replacing it
            raise UnknownTarget(f"cluster {name} is not there yet")
        return cluster

    def _site(self, name: str) -> ServedSite:
        if (site := self._sites.get(name)) is None:  # a reload is replacing it
            raise UnknownTarget(f"site {name} is not there yet")
        return site

    def _find_pod(self, route: str, pod: str) -> str:
        discovery = self._route(route).discovery
        if discovery is None:  # a reload is replacing it
            raise UnknownTarget(f"route {route} does not know its pods yet")
        return discovery.find(pod)

    def _route(self, name: str) -> Routed:
        if (route := self._routes.get(name)) is None:
            raise UnknownTarget(f"route {name} is not there yet")
        return route
