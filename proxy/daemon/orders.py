"""What the daemon can be told while it runs (`proxy.admin.orders.Control`): through its unix socket, and by
SIGHUP.
"""

from __future__ import annotations

import asyncio
import os

import structlog

from proxy.admin.orders import ReloadResult
from proxy.config.unknown import no_cluster, no_gateway
from proxy.daemon.daemon import Daemon
from proxy.daemon.doctor import Lent, examine
from proxy.daemon.reload import Stopping, reload
from proxy.daemon.renewal import LOOK_S, Renewal
from proxy.errors import ProxyError

log = structlog.get_logger("kubemux.control")


class Controller:
    """Orders to one daemon; reloads one at a time."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._graph = daemon.graph
        self._reloading = asyncio.Lock()
        self._renewal = Renewal(daemon, self._reloading)
        self._next: asyncio.Task[ReloadResult | ProxyError] | None = None
        self._lent: dict[str, Lent] = {}
        self._lent_for = daemon.graph.config

    async def reload(self) -> ReloadResult:
        """Read the configuration again and take it whole, or change nothing and raise ConfigError or
        Stopping.

        One that has not begun answers for everybody who asks meanwhile: a storm of SIGHUPs is two reloads,
        not a hundred.
        """
        if self._next is None:
            self._next = self._daemon.tasks.spawn(self._reload(), name="reload")
        task = self._next
        try:
            result = await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise Stopping("kubemux is being stopped") from None
            raise
        if isinstance(result, ProxyError):
            raise result
        return result

    async def _reload(self) -> ReloadResult | ProxyError:
        async with self._reloading:
            self._next = None  # the file is read from here on: who asks now may mean a newer one
            try:
                return await reload(self._daemon)
            except ProxyError as exc:
                return exc

    async def watch_files(self) -> None:
        """Renew what is made with files that change, until cancelled."""
        while True:
            await self._renewal.look()
            await asyncio.sleep(LOOK_S)

    async def reconnect(self, gateway: str) -> None:
        """Replace the links of `gateway`, make before break; returns before they are. Raises UnknownName."""
        if gateway not in self._graph.gateways:
            raise no_gateway(self._graph.config, gateway, "reconnect")
        log.info("reconnect requested", gateway=gateway)
        self._graph.gateways[gateway].renew("reconnect")

    async def probe(self, cluster: str) -> dict[str, object]:
        """Probe `cluster` step by step, with the daemon's own keys and at its pace. Raises UnknownName."""
        config = self._graph.config
        if cluster not in config.clusters:
            raise no_cluster(config, cluster, "probe")
        log.info("probe requested", cluster=cluster)
        if self._lent_for is not config:
            self._lent_for, self._lent = config, {}
        graph, shared = self._graph, self._graph.shared
        lent = self._lent.setdefault(
            cluster, Lent(graph.handshakes, graph.turns, shared.budget, shared.waiting)
        )
        served = graph.clusters.get(cluster)
        lent.line = served.cluster.line if served is not None else ()
        report = await examine(config, cluster, lent=lent, daemon=os.getpid())
        return report.to_document()

    async def drain(self, cluster: str) -> int:
        """Close a cluster's listener and let its connections end; a reload opens it again.

        Returns how many had to be cut. Raises UnknownName.
        """
        config, clusters = self._graph.config, self._graph.clusters
        if cluster not in clusters:
            raise no_cluster(config, cluster, "drain")
        return await clusters[cluster].drain(config.limits.drain_timeout)
