"""The orders to the running daemon (`proxy.admin.orders.Control`). They come through its unix socket; SIGHUP
is an order, too.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping

import structlog

from proxy.admin.orders import DrainResult, ReloadResult
from proxy.config.unknown import no_cluster, no_gateway, not_drained
from proxy.daemon.daemon import Daemon
from proxy.daemon.doctor import Lent, examine
from proxy.daemon.reload import Stopping, reload
from proxy.daemon.renewal import SCAN_S, Renewal
from proxy.daemon.ways import Destination, through
from proxy.errors import ProxyError, UnknownName

log = structlog.get_logger("kubemux.control")


class Controller:
    """Carries out the orders to one daemon. Reloads run one at a time."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._graph = daemon.graph
        self._reloading = asyncio.Lock()
        self._renewal = Renewal(daemon, self._reloading)
        self._next: asyncio.Task[ReloadResult | ProxyError] | None = None
        self._lent: dict[str, Lent] = {}
        self._lent_for = daemon.graph.config

    async def reload(self) -> ReloadResult:
        """Read the configuration again, and apply all of it. If that fails, nothing changes. Raises
        ConfigError, Stopping.

        Callers share a reload that has not begun yet: a hundred SIGHUPs at once cause two reloads.
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
            self._next = None  # this reload reads the file now: a later caller may have changed it again
            try:
                return await reload(self._daemon)
            except ProxyError as exc:
                return exc

    async def watch_files(self) -> None:
        """Renew links and probe clusters when files that they use change. Runs until it is cancelled."""
        while True:
            await self._renewal.renew_changed()
            await asyncio.sleep(SCAN_S)

    async def reconnect(self, gateway: str) -> None:
        """Begin to replace the links of `gateway`, make before break, and return. Raises UnknownName."""
        if gateway not in self._graph.gateways:
            raise no_gateway(self._graph.config, gateway, "reconnect")
        log.info("reconnect requested", gateway=gateway)
        self._graph.gateways[gateway].renew("reconnect")

    async def probe(self, cluster: str) -> dict[str, object]:
        """Probe `cluster` step by step, with the daemon's keys and within its limits. Raises UnknownName."""
        config = self._graph.config
        if cluster not in config.clusters:
            raise no_cluster(config, cluster, "probe")
        log.info("probe requested", cluster=cluster)
        if self._lent_for is not config:
            self._lent_for, self._lent = config, {}
        graph, shared = self._graph, self._graph.shared
        lent = self._lent.setdefault(
            cluster, Lent(graph.gateways.handshakes, graph.turns, shared.budget, shared.waiting)
        )
        served = graph.clusters.get(cluster)
        lent.order = served.cluster.order if served is not None else ()
        lent.sites = {name: site.site for name, site in graph.sites.items()}
        report = await examine(config, cluster, lent=lent, daemon=os.getpid())
        return report.to_document()

    async def drain(self, name: str) -> DrainResult:
        """Drain a cluster or route: close its listener, accept no more connections, and wait until the open
        ones have ended. The next reload opens it again. The name of a gateway or site stands for all that
        leads through it, unless a cluster or route has that name, too.

        Raises UnknownName.
        """
        config, graph = self._graph.config, self._graph
        named = {f"cluster {name}": graph.clusters.get(name), f"route {name}": graph.routes.get(name)}
        found: Mapping[str, Destination] = {what: one for what, one in named.items() if one is not None}
        if not found:
            if name not in graph.gateways and name not in graph.sites:
                raise not_drained(config, name)
            found = through(name, graph.clusters, graph.routes, graph.sites)
        cuts = await asyncio.gather(*(one.drain(config.limits.drain_timeout) for one in found.values()))
        return DrainResult(sum(cuts), tuple(found))

    async def end(self, caller: str, of: str | None) -> int:
        """End the connections of `caller`, a name as the log shows it: all, or those of the cluster, route or
        site `of`.

        Returns how many they were. Raises UnknownName.
        """
        config = self._graph.config
        routes = [route.name for route in config.routes]
        known = [*config.clusters, *routes, *config.sites]
        if of is not None and of not in known:
            raise UnknownName.among("cluster, route or site", of, known)
        ended = self._graph.end(caller, of)
        log.info("connections ended", caller=caller, of=of or "all", ended=ended)
        return ended
