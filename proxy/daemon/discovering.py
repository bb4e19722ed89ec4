"""The discoveries of a daemon's routes: which cluster each watches, and when one starts again."""

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
    """All discoveries of a daemon. `clusters` and `routes` are the daemon's own mappings, which reloads
    change. `on_change` is called when `status` has changed.
    """

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
        """A new discovery for a route; None if the route has no `discover`."""
        if route.discover is None:
            self._metrics.forget_discovery(route.name)
            return None
        asked = partial(self._asked, route.discover.cluster)
        record = self._metrics.discovery(route.name)
        return Discovery(route.name, route.discover, asked, self._contexts, self._on_change, record)

    def start(self) -> None:
        """Start the discoveries that do not run yet. Call it after their clusters are added."""
        for discovery in self._asking(self._clusters):
            discovery.start()

    def renew(self, clusters: Collection[str]) -> None:
        """Restart the discoveries of these clusters, because the clusters or their files have changed."""
        for discovery in self._asking(clusters):
            discovery.renew()

    def ask_soon(self, cluster: str) -> None:
        """Let discoveries of this cluster retry at once, because its gateway's state has changed."""
        for discovery in self._asking((cluster,)):
            discovery.ask_soon()

    def _asking(self, clusters: Collection[str]) -> Iterator[Discovery]:
        found = (route.discovery for route in self._routes.values() if route.discovery is not None)
        return (discovery for discovery in found if discovery.cluster in clusters)

    def _asked(self, name: str) -> tuple[ClusterConfig, Dial]:
        if (served := self._clusters.get(name)) is None:  # a reload is replacing it
            raise LinkDown(f"cluster {name} is not there yet")
        return served.cluster.config, served.cluster.dial_for_pods
