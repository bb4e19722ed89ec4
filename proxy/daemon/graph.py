"""The gateways and clusters that the daemon runs, and how a reload changes them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import structlog

from proxy.config import references
from proxy.config.diff import Plan
from proxy.config.findings import Loc
from proxy.config.model import Config, RouteConfig
from proxy.daemon.access import Access
from proxy.daemon.connections import HALF_CLOSE_S, Connections, Shared
from proxy.daemon.discovering import Discoveries
from proxy.daemon.handing_on import ReusableListeners
from proxy.daemon.heartbeat import Part
from proxy.daemon.routed import Routed
from proxy.daemon.served import ServedCluster
from proxy.daemon.served_entry import ServedEntry
from proxy.daemon.served_ssh import ServedSsh
from proxy.daemon.sites import Sites
from proxy.daemon.switchboard import Switchboard
from proxy.daemon.ways import Ways, sockets, through
from proxy.entries.admission import Admission
from proxy.entries.fd_store import FdStore
from proxy.entries.listener import Listener
from proxy.entries.ssh_entry import SshEntry
from proxy.health.tls import Contexts
from proxy.metrics import Metrics
from proxy.relay.budget import MemoryBudget
from proxy.relay.waiting import WaitingForMemory
from proxy.runtime import descriptors
from proxy.runtime.endpoint import Local
from proxy.runtime.tasks import Tasks
from proxy.snapshots import ClusterSnapshot, EntrySnapshot, GatewaySnapshot, RouteSnapshot, SiteSnapshot
from proxy.ssh.handshakes import Handshakes
from proxy.ssh.supervision.gateway import Gateway
from proxy.ssh.supervision.patterns import PatternGateway
from proxy.ssh.turns import Turns

log = structlog.get_logger("kubemux.daemon")


class Graph:
    """Every gateway and every cluster of the daemon."""

    def __init__(
        self,
        config: Config,
        *,
        fingerprint: Mapping[Path, bytes],
        store: FdStore,
        metrics: Metrics,
        on_change: Callable[[], None],
    ) -> None:
        """`fingerprint` has the digests of the files that `config` names and that could be read
        (`proxy.config.apart`). `on_change` is called after a change that `status` shows.
        """
        self.config = config
        self.fingerprint = dict(fingerprint)
        self.gateways: dict[str, Gateway | PatternGateway] = {}
        self.clusters: dict[str, ServedCluster] = {}
        self.entries: dict[str, ServedEntry] = {}
        budget = MemoryBudget(1, 1)
        self.access = Access(metrics)
        self.shared = Shared(budget, Admission(1), metrics, 0.0, WaitingForMemory(budget), self.access)
        self.handshakes = Handshakes()
        self.turns = Turns()
        self._apply_limits()
        self._metrics = metrics
        self._store = store
        self._on_change = on_change
        self._contexts = Contexts()
        self._told: dict[str, tuple[bool, bool]] = {}
        self.routes: dict[str, Routed] = {}
        entry = SshEntry(metrics, lambda arrival: self._switchboard.accept(arrival))
        self.sites = Sites(self.shared, self.turns, self._gateway_changed, on_open=entry.asked)
        self.ssh = ServedSsh(self.shared, self.turns, entry, self.sites, store=store, on_change=on_change)
        self._ways = Ways(self.gateways, self.sites, lambda: self.config)
        self._discoveries = Discoveries(self.clusters, self.routes, self._contexts, on_change, metrics)
        self._switchboard = Switchboard(config, self.clusters, self.routes, self.sites)
        self.access.reconfigure(config)
        self._retiring = Tasks("retiring")  # these drain what a reload has removed or replaced
        self._retired: set[Connections] = set()
        metrics.buffered_bytes.set_function(lambda: budget.used)
        metrics.paused_relays.set_function(lambda: sum(one.paused for one in self._connections()))

    def __repr__(self) -> str:
        return f"<Graph gateways={len(self.gateways)} clusters={len(self.clusters)}>"

    @property
    def is_listening(self) -> bool:
        """Whether every entry accepts clients, and every cluster that is not drained."""
        return (
            all(one.is_listening for one in self.clusters.values())
            and all(one.listener.is_bound for one in self.entries.values())
            and self.ssh.is_listening
        )

    def _connections(self) -> Iterator[Connections]:
        for cluster in self.clusters.values():
            yield cluster.cluster.connections
        for route in self.routes.values():
            yield route.connections
        for site in self.sites.values():
            yield site.connections

    def end(self, caller: str, of: str | None) -> int:
        """End the connections of one caller: all, or those of the destination `of`. Returns how many they
        were. They include those of destinations that a reload has removed or replaced.
        """
        destinations = (*self._connections(), *self._retired)
        return sum(one.end(caller) for one in destinations if of is None or one.name == of)

    def parts(self) -> Iterator[Part]:
        """The functions that the heartbeat calls."""
        for name, gateway in self.gateways.items():
            yield f"gateway {name}", gateway.sample
        for name, site in self.sites.items():
            yield f"site {name}", site.beat
        for name, cluster in self.clusters.items():
            yield f"cluster {name}", cluster.beat
        for name, route in self.routes.items():
            yield f"route {name}", route.beat

    def snapshot(
        self,
    ) -> tuple[
        tuple[GatewaySnapshot, ...],
        tuple[ClusterSnapshot, ...],
        tuple[EntrySnapshot, ...],
        tuple[RouteSnapshot, ...],
        tuple[SiteSnapshot, ...],
    ]:
        """Gateways, clusters, entries, routes and sites in the order of the file, also after reloads."""
        return (
            tuple(self.gateways[name].snapshot() for name in self.config.gateways if name in self.gateways),
            tuple(self.clusters[name].snapshot() for name in self.config.clusters if name in self.clusters),
            (
                *(self.entries[name].snapshot() for name in self.config.entries if name in self.entries),
                *self.ssh.snapshot(),
            ),
            tuple(
                self.routes[route.name].snapshot()
                for route in self.config.routes
                if route.name in self.routes
            ),
            tuple(self.sites[name].snapshot() for name in self.config.sites if name in self.sites),
        )

    async def start(self) -> None:
        """Start to dial the gateways, and to accept clients."""
        for name in self.config.gateways:
            self._add_gateway(name)
        self.sites.start(self.config)
        for route in self.config.routes:
            self._add_route(route)
        await self._add(self.config.clusters, self.config.entries, {})
        await self.ssh.reconfigure(self.config, {})
        self._discoveries.start()

    # -------------------------------------------------------------------------------------- while it runs

    async def reconfigure(self, config: Config, plan: Plan, fingerprint: Mapping[Path, bytes]) -> None:
        """Apply a new configuration: retire, update, add. `fingerprint` has the digests of its files."""
        self.config = config
        self.access.reconfigure(config)
        known = {**self.fingerprint, **fingerprint}
        self.fingerprint = {path: known[path] for path in references.files(config) if path in known}
        if plan.limits:
            self._apply_limits()
        listeners = self._retire(plan)
        self._update(plan)
        self._switchboard.reconfigure(config)
        clusters, entries = plan.clusters, plan.entries
        stay = (*entries.kept, *entries.renewed)
        await asyncio.gather(*(self.entries[name].reconfigure(config.entries[name]) for name in stay))
        await self._add((*clusters.changed, *clusters.added), (*entries.changed, *entries.added), listeners)
        await self.ssh.reconfigure(config, listeners)
        self._discoveries.start()
        self._discoveries.renew((*clusters.changed, *clusters.renewed))
        for name in entries.removed:
            self._metrics.forget_entry(name)
        for name in plan.routes.removed:
            self._metrics.forget_route(name)
        for name in plan.clusters.removed:
            self._metrics.forget_cluster(name)
        for name in plan.gateways.removed:
            self._metrics.forget_gateway(name)

    def _retire(self, plan: Plan) -> ReusableListeners:
        """Drain the clusters and gateways that are removed or replaced.

        Returns the listeners whose addresses another cluster or entry of the new configuration has.
        """
        clusters, gateways = plan.clusters, plan.gateways
        timeout = self.config.limits.drain_timeout
        entries = plan.entries
        listeners = ReusableListeners(self.config, plan)
        for name in (*entries.removed, *entries.changed):
            entry = self.entries.pop(name)
            listeners.keep_or_release(entry.listener)
            self._retiring.spawn(entry.close(), name=f"entry {name}")
        listeners.keep_or_release(self.ssh.give_up(self.config))
        for name in (*plan.routes.removed, *plan.routes.changed):
            route = self.routes.pop(name)
            self._outlive(route.connections, route.retire(timeout), f"route {name}")
        for name in (*clusters.removed, *clusters.changed):
            cluster = self.clusters.pop(name)
            listeners.keep_or_release(cluster.listener)
            self._outlive(cluster.cluster.connections, cluster.retire(timeout), f"cluster {name}")
        for name in (*gateways.removed, *gateways.changed):
            gateway = self.gateways.pop(name)
            for one in through(name, self.clusters.values(), self.routes.values()):
                self._retiring.spawn(one.leave(timeout), name=f"{one.name} through gateway {name}")
            self._retiring.spawn(gateway.drain(timeout + HALF_CLOSE_S), name=f"gateway {name}")
        return listeners

    def _outlive(self, connections: Connections, drain: Coroutine[object, object, object], name: str) -> None:
        """Drain the connections of a destination that a reload has removed."""
        self._retired.add(connections)
        task = self._retiring.spawn(drain, name=name)
        task.add_done_callback(lambda _: self._retired.discard(connections))

    def _update(self, plan: Plan) -> None:
        """Apply new settings to what stays. Gateways come first: the clusters get their ways from them."""
        for name in (*plan.gateways.changed, *plan.gateways.added):
            self._add_gateway(name)
        for name in plan.gateways.renewed:
            self.gateways[name].reconfigure(self.config.gateways[name], self.config.gateways)
        timeout = self.config.limits.drain_timeout
        self.sites.reconfigure(self.config, plan.sites, self._retiring, timeout + HALF_CLOSE_S)
        for name in plan.gateways.adjusted:
            self.gateways[name].adjust(self.config.gateways[name], self.config.gateways)
        for route in self.config.routes:
            if route.name in self.routes:
                self.routes[route.name].reconfigure(route, self._ways.to(route))
            else:
                self._add_route(route)
        for name in (*plan.clusters.kept, *plan.clusters.renewed):
            config = self.config.clusters[name]
            has_changed = name in plan.clusters.renewed
            self.clusters[name].reconfigure(config, self._ways.of(config), has_changed=has_changed)
            self.clusters[name].admit_or_refuse()  # the new hold_timeout may decide otherwise

    def renew(
        self,
        gateways: Collection[str],
        clusters: Collection[str],
        entries: Collection[str],
        logins: Collection[Loc],
        fingerprint: Mapping[Path, bytes],
    ) -> None:
        """Use files that have changed: replace the links of `gateways`, probe `clusters`, and let `entries`
        read their files again. The SSH server reads the files of the sections `logins` again (sites, users,
        its own).

        `fingerprint` has the new digests of these files.
        """
        self.note_files(fingerprint)
        for name in gateways:
            self.gateways[name].renew("files changed")
        for name in clusters:
            self.clusters[name].monitor.probe_soon()
        for name in entries:
            self.entries[name].renew()
        if logins:
            self.ssh.renew(logins)
        self._discoveries.renew(clusters)

    def note_files(self, fingerprint: Mapping[Path, bytes]) -> None:
        """Remember the digests of files that are in use."""
        self.fingerprint |= fingerprint

    def _apply_limits(self) -> None:
        """Apply `limits` to new connections."""
        limits = self.config.limits
        fit = descriptors.for_clients(descriptors.raise_limit(), sockets(self.config))
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
        config = self.config.gateways[name]
        gateway = (PatternGateway if config.is_pattern else Gateway)(
            name,
            config,
            self.config.gateways,
            budget=self.shared.budget,
            turns=self.turns,
            record=self._metrics.gateway(name),
            handshakes=self.handshakes,
            on_change=lambda: self._gateway_changed(name),
        )
        self.gateways[name] = gateway
        gateway.start()

    async def _add(
        self, clusters: Collection[str], entries: Collection[str], listeners: Mapping[Local, Listener]
    ) -> None:
        """Start these clusters and entries; each gets the listener of its address, if `listeners` has one."""
        config = self.config
        addresses = [
            *(listen for name in clusters if (listen := config.clusters[name].listen)),
            *(config.entries[name].listen for name in entries),
        ]
        await self._store.wait_until_free(addresses)
        for name in clusters:
            self.clusters[name] = ServedCluster(
                name,
                config.clusters[name],
                self._ways.of(config.clusters[name]),
                self.shared,
                store=self._store,
                contexts=self._contexts,
                on_change=self._on_change,
                listener=listeners.get(listen) if (listen := config.clusters[name].listen) else None,
            )
        for name in entries:
            self.entries[name] = ServedEntry(
                name,
                config.entries[name],
                self.shared,
                store=self._store,
                on_arrival=self._switchboard.accept,
                on_change=self._on_change,
                listener=listeners.get(config.entries[name].listen),
            )
        await asyncio.gather(
            *(self.clusters[name].start() for name in clusters),
            *(self.entries[name].start() for name in entries),
        )

    def _add_route(self, config: RouteConfig) -> None:
        discovery = self._discoveries.of(config)
        self.routes[config.name] = Routed(config, self._ways.to(config), self.shared, discovery)

    def _gateway_changed(self, name: str) -> None:
        """Probe the clusters of a gateway that has come up or gone down. When a gateway that is down fails to
        dial once more, they need no probe.
        """
        site = self.sites.get(name)
        gateway = self.gateways.get(name) if site is None else site.site
        now = (gateway.is_up, gateway.is_idle) if gateway is not None else (False, False)
        is_news, self._told[name] = now != self._told.get(name, (False, False)), now
        for cluster in self.clusters.values():
            if cluster.cluster.config.gateway == name:
                cluster.admit_or_refuse()
                if is_news:
                    cluster.monitor.probe_soon()
                    self._discoveries.ask_soon(cluster.name)
        self._on_change()

    # -------------------------------------------------------------------------------------------- the end

    def close_listeners(self) -> None:
        """Accept no more clients; systemd keeps the sockets for the next process."""
        for cluster in self.clusters.values():
            cluster.accept_no_more()
        for entry in self.entries.values():
            entry.listener.accept_no_more()
        self.ssh.accept_no_more()

    async def drain(self, budget: float) -> None:
        """Wait up to `budget` seconds for all client connections to end."""
        await asyncio.gather(
            *(one.drain(budget) for one in self._connections()),
            self._wait_for_retired(budget),
        )

    async def _wait_for_retired(self, budget: float) -> None:
        # Each has a drain_timeout of its own, which may be longer: it is that of an earlier configuration.
        with suppress(TimeoutError):
            async with asyncio.timeout(budget + HALF_CLOSE_S):
                await self._retiring.wait()

    async def close(self) -> None:
        """Cut every connection, and close every link."""
        await self._retiring.close()
        await asyncio.gather(*(entry.close() for entry in self.entries.values()), self.ssh.close())
        await asyncio.gather(*(route.retire(0) for route in self.routes.values()))
        await asyncio.gather(*(cluster.retire(0) for cluster in self.clusters.values()))
        await asyncio.gather(self.sites.close(), *(gateway.close() for gateway in self.gateways.values()))
        await self.access.close()
