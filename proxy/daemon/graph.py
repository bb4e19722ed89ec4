"""The gateways, sites, clusters, routes and entries of the daemon, and how a reload changes them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from proxy.config import references
from proxy.config.diff import Plan
from proxy.config.findings import Loc
from proxy.config.model import Config
from proxy.daemon import limits
from proxy.daemon.access import Access
from proxy.daemon.clusters import Clusters
from proxy.daemon.connections import HALF_CLOSE_S, Connections, Shared
from proxy.daemon.entries import Entries
from proxy.daemon.gateways import Gateways
from proxy.daemon.handing_on import ReusableListeners
from proxy.daemon.heartbeat import Part
from proxy.daemon.rechecking import recheck
from proxy.daemon.retiring import Retiring
from proxy.daemon.routes import Routes
from proxy.daemon.served_ssh import ServedSsh
from proxy.daemon.sites import Sites
from proxy.daemon.switchboard import Switchboard
from proxy.daemon.ways import Ways, through
from proxy.entries.admission import Admission
from proxy.entries.fd_store import FdStore
from proxy.entries.listener import Listener
from proxy.entries.ssh_entry import SshEntry
from proxy.health.tls import Contexts
from proxy.metrics import Metrics
from proxy.relay.budget import MemoryBudget
from proxy.relay.waiting import WaitingForMemory
from proxy.runtime.endpoint import Local
from proxy.snapshots import ClusterSnapshot, EntrySnapshot, GatewaySnapshot, RouteSnapshot, SiteSnapshot
from proxy.ssh.turns import Turns


class Graph:
    """The running parts of a configuration."""

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
        budget = MemoryBudget(1, 1)
        self.access = Access(metrics)
        self.shared = Shared(budget, Admission(1), metrics, 0.0, WaitingForMemory(budget), self.access)
        self.turns = Turns()
        limits.apply(config, self.shared)
        self._metrics = metrics
        self._store = store
        self._on_change = on_change
        self._told: dict[str, tuple[bool, bool]] = {}
        entry = SshEntry(metrics, lambda arrival: self._switchboard.accept(arrival))
        self.gateways = Gateways(self.shared, self.turns, self._gateway_changed)
        self.sites = Sites(
            self.shared,
            self.turns,
            self._gateway_changed,
            on_open=entry.asked,
            on_refused=entry.refused,
        )
        self.ssh = ServedSsh(
            self.shared,
            self.turns,
            entry,
            self.sites,
            store=store,
            on_keys=self._recheck,
            on_change=on_change,
        )
        ways = Ways(self.gateways, self.sites, lambda: self.config)
        contexts = Contexts()
        self.clusters = Clusters(self.shared, ways, contexts, store, on_change)
        self.routes = Routes(self.shared, ways, self.clusters, contexts, on_change)
        self._switchboard = Switchboard(config, self.clusters, self.routes, self.sites)
        self.entries = Entries(self.shared, store, self._switchboard.accept, on_change)
        self.access.reconfigure(config)
        self._retiring = Retiring()
        metrics.buffered_bytes.set_function(lambda: budget.used)
        metrics.paused_relays.set_function(lambda: sum(one.paused for one in self._connections()))

    def __repr__(self) -> str:
        return f"<Graph gateways={len(self.gateways)} clusters={len(self.clusters)}>"

    @property
    def is_listening(self) -> bool:
        """Whether every entry accepts clients, and every cluster that is not drained does, too."""
        return (
            all(one.is_listening for one in self.clusters.values())
            and all(one.listener.is_bound for one in self.entries.values())
            and self.ssh.is_listening
        )

    def _connections(self) -> Iterator[Connections]:
        for cluster in self.clusters.values():
            yield cluster.connections
        for route in self.routes.values():
            yield route.connections
        for site in self.sites.values():
            yield site.connections

    def end(self, caller: str, of: str | None) -> int:
        """End the connections of one caller: all, or those of the destination `of`. Returns how many they
        were. They include those of destinations that a reload has removed or replaced.
        """
        destinations = (*self._connections(), *self._retiring)
        return sum(one.end(caller) for one in destinations if of is None or one.name == of)

    def parts(self) -> Iterator[Part]:
        """The functions that the heartbeat calls."""
        for name, gateway in self.gateways.items():
            yield f"gateway {name}", gateway.sample
        yield from self.sites.parts()
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
        """Begin to dial the gateways and to accept clients."""
        self.gateways.start(self.config)
        self.sites.start(self.config)
        self.routes.reconfigure(self.config)
        await self._add(self.config.clusters, self.config.entries, {})
        await self.ssh.reconfigure(self.config, {})
        self.routes.discoveries.start()

    # -------------------------------------------------------------------------------------- while it runs

    async def reconfigure(self, config: Config, plan: Plan, fingerprint: Mapping[Path, bytes]) -> None:
        """Apply a new configuration: retire, update, add. `fingerprint` has the digests of its files."""
        self.config = config
        self.access.reconfigure(config)
        known = {**self.fingerprint, **fingerprint}
        self.fingerprint = {path: known[path] for path in references.files(config) if path in known}
        if plan.limits:
            limits.apply(config, self.shared)
        listeners = self._retire(plan)
        self._update(plan)
        self._switchboard.reconfigure(config)
        self._recheck()
        clusters, entries = plan.clusters, plan.entries
        await self.entries.reconfigure(config, entries)
        await self._add((*clusters.changed, *clusters.added), (*entries.changed, *entries.added), listeners)
        await self.ssh.reconfigure(config, listeners)
        self.routes.discoveries.start()
        self.routes.discoveries.renew((*clusters.changed, *clusters.renewed))
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
            entry = self.entries.retire(name)
            listeners.keep_or_release(entry.listener)
            self._retiring.add(entry.close(), f"entry {name}")
        listeners.keep_or_release(self.ssh.detach_listener(self.config))
        for name in (*plan.routes.removed, *plan.routes.changed):
            route = self.routes.retire(name)
            self._retiring.add(route.retire(timeout), f"route {name}", of=route.connections)
        for name in (*clusters.removed, *clusters.changed):
            cluster = self.clusters.retire(name)
            listeners.keep_or_release(cluster.listener)
            self._retiring.add(cluster.retire(timeout), f"cluster {name}", of=cluster.connections)
        for name in (*gateways.removed, *gateways.changed):
            gateway = self.gateways.retire(name)
            for what, one in through(name, self.clusters, self.routes, self.sites).items():
                self._retiring.add(
                    one.connections.leave(timeout, waiting=False), f"{what} through gateway {name}"
                )
            self._retiring.add(gateway.drain(timeout + HALF_CLOSE_S), f"gateway {name}")
        return listeners

    def _update(self, plan: Plan) -> None:
        """Apply new settings to the parts that stay. Gateways come first: they are the ways of clusters."""
        self.gateways.reconfigure(self.config, plan.gateways)
        timeout = self.config.limits.drain_timeout
        self.sites.reconfigure(self.config, plan.sites, self._retiring, timeout + HALF_CLOSE_S)
        self.routes.reconfigure(self.config)
        self.clusters.reconfigure(self.config, plan.clusters)

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
        self.routes.discoveries.renew(clusters)

    def _recheck(self) -> None:
        recheck(self.clusters.values(), self.routes.values(), self.sites, self._retiring)

    def note_files(self, fingerprint: Mapping[Path, bytes]) -> None:
        """Remember the digests of files that are in use."""
        self.fingerprint |= fingerprint

    async def _add(
        self, clusters: Collection[str], entries: Collection[str], listeners: Mapping[Local, Listener]
    ) -> None:
        """Start these clusters and entries. Each gets the bound listener of its address from `listeners`."""
        config = self.config
        addresses = [
            *(listen for name in clusters if (listen := config.clusters[name].listen)),
            *(config.entries[name].listen for name in entries),
        ]
        await self._store.wait_until_free(addresses)
        await asyncio.gather(
            self.clusters.add(config, clusters, listeners), self.entries.add(config, entries, listeners)
        )

    def _gateway_changed(self, name: str) -> None:
        """Probe the clusters of a gateway that came up or went down. If a dial of a gateway that is down
        fails again, no probe is needed.
        """
        site = self.sites.get(name)
        gateway = self.gateways.get(name) if site is None else site.site
        now = (gateway.is_up, gateway.is_idle) if gateway is not None else (False, False)
        is_news, self._told[name] = now != self._told.get(name, (False, False)), now
        for cluster in self.clusters.behind(name):
            cluster.admit_or_refuse()
            if is_news:
                cluster.monitor.probe_soon()
                self.routes.discoveries.ask_soon(cluster.name)
        self._on_change()

    # -------------------------------------------------------------------------------------------- the end

    def close_listeners(self) -> None:
        """Stop accepting clients. systemd keeps the sockets for the next process."""
        self.clusters.stop_accepting()
        self.entries.stop_accepting()
        self.ssh.stop_accepting()

    async def drain(self, budget: float) -> None:
        """Wait up to `budget` seconds until all client connections have ended."""
        await asyncio.gather(self._drain(budget), self._retiring.wait(budget))

    async def _drain(self, budget: float) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + budget
        # Before the drain of the destinations: that ends at once for one without connections, and would cut a
        # client that comes after it.
        await self.entries.finish_requests(budget)
        left = max(0.0, end - loop.time())
        await asyncio.gather(*(one.drain(left, gently=budget > 0) for one in self._connections()))

    async def close(self) -> None:
        """Cut every connection, and close every link."""
        await self._retiring.close()
        await asyncio.gather(self.entries.close(), self.ssh.close())
        await self.routes.close()
        await self.clusters.close()
        await asyncio.gather(self.sites.close(), self.gateways.close())
        await self.access.close()
