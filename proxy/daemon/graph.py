"""The object graph: the gateways and clusters of one configuration at work, and the way to another one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import structlog

from proxy.config import references
from proxy.config.diff import Plan
from proxy.config.model import DIRECT, ClusterConfig, Config
from proxy.daemon.cluster import HALF_CLOSE_S, Shared
from proxy.daemon.heartbeat import Part
from proxy.daemon.served import ServedCluster
from proxy.entries.admission import Admission
from proxy.entries.fd_store import FdStore
from proxy.entries.listener import Listener
from proxy.health.tls import Contexts
from proxy.metrics import Metrics
from proxy.relay.budget import MemoryBudget
from proxy.relay.direct import Direct
from proxy.relay.interfaces import Way
from proxy.relay.waiting import WaitingForMemory
from proxy.runtime import descriptors
from proxy.runtime.endpoint import Endpoint
from proxy.runtime.tasks import Tasks
from proxy.snapshots import ClusterSnapshot, GatewaySnapshot
from proxy.ssh.handshakes import Handshakes
from proxy.ssh.supervision.gateway import Gateway
from proxy.ssh.turns import Turns

log = structlog.get_logger("kubemux.daemon")


class Graph:
    """Every gateway and every cluster."""

    def __init__(
        self,
        config: Config,
        *,
        fingerprint: Mapping[Path, bytes],
        store: FdStore,
        metrics: Metrics,
        on_change: Callable[[], None],
    ) -> None:
        """`fingerprint` is of the files that `config` names, as far as they could be read
        (`proxy.config.apart`). `on_change` is called after something that `status` shows has changed.
        """
        self.config = config
        self.fingerprint = dict(fingerprint)
        self.gateways: dict[str, Gateway] = {}
        self.clusters: dict[str, ServedCluster] = {}
        budget = MemoryBudget(1, 1)
        self.shared = Shared(budget, Admission(1), metrics, 0.0, WaitingForMemory(budget))
        self.handshakes = Handshakes()
        self.turns = Turns()
        self._apply_limits()
        self._metrics = metrics
        self._store = store
        self._on_change = on_change
        self._contexts = Contexts()
        self._up: dict[str, bool] = {}
        self._retiring = Tasks("retiring")  # removed or replaced by a reload, with connections that go on
        metrics.buffered_bytes.set_function(lambda: budget.used)
        metrics.paused_relays.set_function(lambda: sum(one.cluster.paused for one in self.clusters.values()))

    def __repr__(self) -> str:
        return f"<Graph gateways={len(self.gateways)} clusters={len(self.clusters)}>"

    @property
    def is_listening(self) -> bool:
        """Whether every cluster that should takes clients."""
        return all(one.listener.is_bound or one.is_drained for one in self.clusters.values())

    def parts(self) -> Iterator[Part]:
        """What the heartbeat calls."""
        for name, gateway in self.gateways.items():
            yield f"gateway {name}", gateway.sample
        for name, cluster in self.clusters.items():
            yield f"cluster {name}", cluster.beat

    def snapshot(self) -> tuple[tuple[GatewaySnapshot, ...], tuple[ClusterSnapshot, ...]]:
        """In the order of the file, whatever reloads have replaced."""
        return (
            tuple(self.gateways[name].snapshot() for name in self.config.gateways if name in self.gateways),
            tuple(self.clusters[name].snapshot() for name in self.config.clusters if name in self.clusters),
        )

    async def start(self) -> None:
        """Begin to dial, and take clients."""
        for name in self.config.gateways:
            self._add_gateway(name)
        await self._add_clusters(self.config.clusters, {})

    # -------------------------------------------------------------------------------------- while it runs

    async def reconfigure(self, config: Config, plan: Plan, fingerprint: Mapping[Path, bytes]) -> None:
        """Take a new configuration: retire, update, add. `fingerprint` is of the files that it names."""
        self.config = config
        known = {**self.fingerprint, **fingerprint}
        self.fingerprint = {path: known[path] for path in references.files(config) if path in known}
        if plan.limits:
            self._apply_limits()
        listeners = self._retire(plan)
        self._update(plan)
        await self._add_clusters((*plan.clusters.changed, *plan.clusters.added), listeners)
        for name in plan.clusters.removed:
            self._metrics.forget_cluster(name)
        for name in plan.gateways.removed:
            self._metrics.forget_gateway(name)

    def _retire(self, plan: Plan) -> dict[Endpoint, Listener]:
        """Let what is removed or replaced end with the connections that it has.

        Returns the listeners whose addresses are wanted again.
        """
        clusters, gateways = plan.clusters, plan.gateways
        timeout = self.config.limits.drain_timeout
        wanted = {self.config.clusters[name].listen for name in (*clusters.changed, *clusters.added)}
        listeners = {}
        for name in (*clusters.removed, *clusters.changed):
            cluster = self.clusters.pop(name)
            if cluster.listener.is_bound and cluster.listener.address in wanted:
                listeners[cluster.listener.address] = cluster.listener
            else:
                cluster.unlisten()
            self._retiring.spawn(cluster.retire(timeout), name=f"cluster {name}")
        for name in (*gateways.removed, *gateways.changed):
            gateway = self.gateways.pop(name)
            self._retiring.spawn(gateway.drain(timeout + HALF_CLOSE_S), name=f"gateway {name}")
        return listeners

    def _update(self, plan: Plan) -> None:
        """Give what stays its new settings: gateways first, since clusters take their way through them."""
        for name in (*plan.gateways.changed, *plan.gateways.added):
            self._add_gateway(name)
        for name in plan.gateways.renewed:
            self.gateways[name].reconfigure(self.config.gateways[name], self.config.gateways)
        for name in (*plan.clusters.kept, *plan.clusters.renewed):
            config = self.config.clusters[name]
            has_changed = name in plan.clusters.renewed
            self.clusters[name].reconfigure(config, self._way(config), has_changed=has_changed)
            self.clusters[name].admit_or_refuse()  # hold_timeout may be another

    def renew(
        self, gateways: Collection[str], clusters: Collection[str], fingerprint: Mapping[Path, bytes]
    ) -> None:
        """Replace what was made with files that have changed: `fingerprint` is theirs."""
        self.note_files(fingerprint)
        for name in gateways:
            self.gateways[name].renew("files changed")
        for name in clusters:
            self.clusters[name].monitor.poke()

    def note_files(self, fingerprint: Mapping[Path, bytes]) -> None:
        """These are the contents of files that are in use."""
        self.fingerprint |= fingerprint

    def _apply_limits(self) -> None:
        """For what comes from now on."""
        limits = self.config.limits
        links = sum(gateway.connections for gateway in self.config.gateways.values())
        fit = descriptors.for_clients(descriptors.raise_limit(), len(self.config.clusters) + links)
        if fit < limits.max_connections:
            log.warning(
                "fewer connections than configured",
                max_connections=limits.max_connections,
                allowed=fit,
                hint="raise LimitNOFILE= of the unit (ulimit -n), or lower limits.max_connections",
            )
        self.shared.admission.limit = min(fit, limits.max_connections)
        self.shared.budget.resize(limits.memory, limits.max_connections)
        self.shared.hold_timeout = limits.hold_timeout

    def _add_gateway(self, name: str) -> None:
        gateway = Gateway(
            name,
            self.config.gateways[name],
            self.config.gateways,
            budget=self.shared.budget,
            turns=self.turns,
            metrics=self._metrics,
            handshakes=self.handshakes,
            on_change=lambda: self._gateway_changed(name),
        )
        self.gateways[name] = gateway
        gateway.start()

    async def _add_clusters(self, names: Collection[str], listeners: Mapping[Endpoint, Listener]) -> None:
        """Each with the listener of its address, if there is one already."""
        await self._store.settled([self.config.clusters[name].listen for name in names])
        for name in names:
            config = self.config.clusters[name]
            self.clusters[name] = ServedCluster(
                name,
                config,
                self._way(config),
                self.shared,
                store=self._store,
                contexts=self._contexts,
                on_change=self._on_change,
                listener=listeners.get(config.listen),
            )
        await asyncio.gather(*(self.clusters[name].start() for name in names))

    def _way(self, config: ClusterConfig) -> Way:
        return Direct() if config.gateway == DIRECT else self.gateways[config.gateway]

    def _gateway_changed(self, name: str) -> None:
        """Probe the clusters of a gateway that has come up or gone down. A failed dial of one that is down
        is no news for them.
        """
        is_up = self.gateways[name].is_up if name in self.gateways else False
        is_news, self._up[name] = is_up != self._up.get(name), is_up
        for cluster in self.clusters.values():
            if cluster.cluster.config.gateway == name:
                cluster.admit_or_refuse()
                if is_news:
                    cluster.monitor.poke()
        self._on_change()

    # -------------------------------------------------------------------------------------------- the end

    def close_listeners(self) -> None:
        """Accept no more; the fd store keeps the sockets for the next process."""
        for cluster in self.clusters.values():
            cluster.listener.close()

    async def drain(self, budget: float) -> None:
        """Wait up to `budget` seconds for all clients."""
        await asyncio.gather(
            *(cluster.cluster.drain(budget) for cluster in self.clusters.values()), self._retired(budget)
        )

    async def _retired(self, budget: float) -> None:
        # Each has a budget of its own, perhaps from a file that had a longer one.
        with suppress(TimeoutError):
            async with asyncio.timeout(budget + HALF_CLOSE_S):
                await self._retiring.wait()

    async def close(self) -> None:
        """Close everything."""
        await self._retiring.close()
        await asyncio.gather(*(cluster.retire(0) for cluster in self.clusters.values()))
        await asyncio.gather(*(gateway.close() for gateway in self.gateways.values()))
