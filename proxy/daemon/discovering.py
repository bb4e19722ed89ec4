"""The discoveries of a daemon's routes: which cluster each asks, and when one begins anew."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial

from proxy.config.model import ClusterConfig, RouteConfig
from proxy.daemon.discovery.discovery import Discovery
from proxy.daemon.routed import Routed
from proxy.daemon.served import ServedCluster
from proxy.errors import LinkDown
from proxy.health.probe import Dial
from proxy.health.tls import Contexts
from proxy.metrics import Metrics


class Discoveries:
    """All of them. `clusters` and `routes` are the daemon's at any time; `on_change` is for `status`."""

    def __init__(
        self,
        clusters: Mapping[str, ServedCluster],
        routes: Mapping[str, Routed],
        contexts: Contexts,
        on_change: Callable[[], None],
        metrics: Metrics,
    ) -> None:
        self._clusters = clusters
        self._routes = routes
        self._contexts = contexts
        self._on_change = on_change
        self._metrics = metrics

    def of(self, route: RouteConfig) -> Discovery | None:
        """A new one for a route; None if it has no `discover`."""
        if route.discover is None:
            self._metrics.forget_discovery(route.name)
            return None
        asked = partial(self._asked, route.discover.cluster)
        record = self._metrics.discovery(route.name)
        return Discovery(route.name, route.discover, asked, self._contexts, self._on_change, record)

    def start(self) -> None:
        """Start those that do not run yet. Call it when their clusters are there."""
        for discovery in self._asking(self._clusters):
            discovery.start()

    def renew(self, clusters: Collection[str]) -> None:
        """Begin anew where one of these clusters is asked, because it or its files have changed."""
        for discovery in self._asking(clusters):
            discovery.renew()

    def ask_soon(self, cluster: str) -> None:
        """The way to this cluster has changed."""
        for discovery in self._asking((cluster,)):
            discovery.ask_soon()

    def _asking(self, clusters: Collection[str]) -> Iterator[Discovery]:
        found = (route.discovery for route in self._routes.values() if route.discovery is not None)
        return (discovery for discovery in found if discovery.cluster in clusters)

    def _asked(self, name: str) -> tuple[ClusterConfig, Dial]:
        if (served := self._clusters.get(name)) is None:  # a reload is replacing it
            raise LinkDown(f"cluster {name} is not there yet")
        return served.cluster.config, served.cluster.dial_for_pods
