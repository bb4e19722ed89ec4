"""The running daemon: builds the objects of a configuration, starts and stops them, and says how they are.

No policy lives here. What changes at run time is in `proxy/daemon/reload.py`; what the service
manager hears, in `proxy/runtime/systemd.py`.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import structlog
from prometheus_client import CollectorRegistry

from proxy import __version__
from proxy.admin.orders import Control
from proxy.admin.server import AdminServer
from proxy.admin.status import summary
from proxy.config.model import DIRECT, ClusterConfig, Config
from proxy.daemon.cluster import HALF_CLOSE_S, Cluster, Shared
from proxy.daemon.heartbeat import Heartbeat, Part
from proxy.daemon.served import ServedCluster
from proxy.entries.admission import Admission
from proxy.entries.binding import bind
from proxy.entries.fd_store import FdStore
from proxy.entries.listener import Listener
from proxy.errors import ListenError
from proxy.health.lag import watch_lag
from proxy.health.monitor import Monitor
from proxy.health.tls import Contexts
from proxy.metrics import Metrics
from proxy.relay.budget import MemoryBudget
from proxy.relay.direct import Direct
from proxy.relay.interfaces import Route
from proxy.relay.waiting import WaitingForMemory
from proxy.runtime import descriptors, systemd
from proxy.runtime.blocking import Place
from proxy.runtime.endpoint import Endpoint
from proxy.runtime.logging import dropped_entries
from proxy.runtime.malloc import Trim
from proxy.runtime.tasks import Tasks
from proxy.snapshots import DaemonSnapshot
from proxy.ssh.handshakes import Handshakes
from proxy.ssh.supervision.gateway import Gateway
from proxy.ssh.turns import Turns

log = structlog.get_logger("kubemux.daemon")

REBIND_S: Final = 5.0
"""Seconds between attempts to bind an address that somebody else has."""

CLOSING_S: Final = 15.0
"""Seconds that a stop may take after `drain_timeout`: half-closed connections, links and admin calls that
end.
"""


class Daemon:
    """The object graph."""

    def __init__(
        self,
        config: Config,
        *,
        config_path: Path,
        sockets: Mapping[Endpoint | str, socket.socket] | None = None,
        fingerprint: Mapping[Path, bytes] | None = None,
    ) -> None:
        """`fingerprint` is of the files that `config` names, as far as they could be read
        (`proxy.config.apart`).
        """
        self.config = config
        self.config_path = config_path
        self.metrics = Metrics(CollectorRegistry(), version=__version__, dropped_entries=dropped_entries)
        self.metrics.watch_process()
        budget = MemoryBudget(1, 1)
        self.shared = Shared(budget, Admission(1), self.metrics, 0.0, WaitingForMemory(budget))
        self.take_limits()
        self.gateways: dict[str, Gateway] = {}
        self.entries: dict[str, ServedCluster] = {}
        self.tasks = Tasks("daemon")
        self.retiring = Tasks("retiring")
        """What a reload has removed or replaced, and still has connections."""
        self.sockets = FdStore(sockets or {})
        self.handshakes = Handshakes()
        self.turns = Turns()
        self._contexts = Contexts()
        self._admin: AdminServer | None = None
        self._loop = asyncio.get_running_loop()
        self._started_at = self._loop.time()
        self._status_due: asyncio.Handle | None = None
        self._is_started = False
        self._up: dict[str, bool] = {}
        self.is_draining = False
        self._hurry = asyncio.Event()
        self.fingerprint = dict(fingerprint or {})
        self.metrics.buffered_bytes.set_function(lambda: self.shared.budget.used)
        self.metrics.tasks.set_function(lambda: len(asyncio.all_tasks(self._loop)))
        self.metrics.paused_relays.set_function(
            lambda: sum(entry.cluster.paused for entry in self.entries.values())
        )

    def __repr__(self) -> str:
        return f"<Daemon {self.config_path} gateways={len(self.gateways)} clusters={len(self.entries)}>"

    def take_limits(self) -> None:
        """Make `limits:` of the current configuration hold, for what comes from now on."""
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

    # ------------------------------------------------------------------------------------------------ start

    async def start(self, control: Control) -> None:
        """Bind every listener, begin to dial, serve the admin endpoints, tell systemd.

        What fails is logged and retried.
        """
        await self.sockets.close_unwanted(
            [self.config.admin.listen, *(c.listen for c in self.config.clusters.values())]
        )
        for name in self.config.gateways:
            self.add_gateway(name)
        await asyncio.gather(*(self.add_cluster(name) for name in self.config.clusters))
        self._admin = AdminServer(snapshot=self.snapshot, metrics=self.metrics, control=control)
        is_asked = await self._start_admin(self._admin)
        if (
            self.entries
            and not is_asked
            and not any(entry.listener.is_bound for entry in self.entries.values())
        ):
            raise ListenError(
                f"not one address of {self.config_path} can be bound, nor {self.config.admin.listen}",
                hint=f"is kubemux running already? {self._status_command} tells",
            )
        self._start_heartbeat()
        self.metrics.config_last_success.set_to_current_time()
        self._is_started = True
        log.info(
            "started",
            config=str(self.config_path),
            gateways=len(self.gateways),
            clusters=len(self.entries),
            listening=sum(entry.listener.is_bound for entry in self.entries.values()),
            version=__version__,
        )
        systemd.notify(systemd.READY, systemd.status(summary(self.snapshot())))

    def add_gateway(self, name: str) -> Gateway:
        """Build and start gateway `name` of the current configuration."""
        gateway = Gateway(
            name,
            self.config.gateways[name],
            self.config.gateways,
            budget=self.shared.budget,
            turns=self.turns,
            metrics=self.metrics,
            handshakes=self.handshakes,
            on_change=lambda: self._gateway_changed(name),
        )
        self.gateways[name] = gateway
        gateway.start()
        return gateway

    def route(self, config: ClusterConfig) -> Route:
        """The way to a cluster's API servers."""
        return Direct() if config.gateway == DIRECT else self.gateways[config.gateway]

    async def add_cluster(self, name: str, listener: Listener | None = None) -> None:
        """Build and start cluster `name` of the current configuration, on `listener`
        if it has one already.
        """
        config = self.config.clusters[name]
        cluster = Cluster(name, config, self.route(config), self.shared)
        self.metrics.cluster(name).up = False
        monitor = Monitor(
            name, config, cluster.dial, self.metrics, self.state_changed, contexts=self._contexts
        )
        if listener is None:
            listener = Listener(config.listen, cluster.accept, inherited=self.sockets.take(config.listen))
        listener.on_client = cluster.accept
        entry = ServedCluster(cluster, monitor, listener, Tasks(f"cluster {name}"))
        self.entries[name] = entry
        entry.tasks.keep(monitor.run, name="probe")
        await self._listen(name, entry)

    async def _listen(self, name: str, entry: ServedCluster) -> None:
        try:
            await entry.listener.start()
        except ListenError as exc:
            log.error("listener failed", cluster=name, reason=exc.reason, message=str(exc), hint=exc.hint)
            entry.listen_error = ListenError(
                str(exc), hint=exc.hint
            )  # without what the traceback keeps alive
            entry.tasks.keep(partial(self._keep_binding, name, entry), name="bind")
        self._keep(entry.listener)
        self.metrics.cluster(name).listening = entry.listener.is_bound

    async def _keep_binding(self, name: str, entry: ServedCluster) -> None:
        while not entry.listener.is_bound:
            await asyncio.sleep(REBIND_S)
            if entry.is_drained:
                return
            with suppress(ListenError):
                await entry.listener.start()
        entry.listen_error = None
        self._keep(entry.listener)
        self.metrics.cluster(name).listening = True
        log.info("listener bound", cluster=name, listen=str(entry.listener.address))
        self.state_changed()

    def _keep(self, listener: Listener) -> None:
        if listener.sock is not None and not listener.is_refusing:
            self.sockets.keep(listener.address, listener.sock)

    def unlisten(self, entry: ServedCluster) -> None:
        """Give the address of a cluster up: clients that come now are refused, also while kubemux
        restarts.
        """
        entry.listener.close()
        self.sockets.forget(entry.listener.address)

    async def _start_admin(self, server: AdminServer) -> bool:
        """Whether the daemon can be asked."""
        admin = self.config.admin
        is_bound = False
        try:
            sock = self.sockets.take(admin.listen) or await bind(admin.listen, Place("names of admin.listen"))
            self.sockets.keep(admin.listen, sock)
            await server.start_tcp(sock)
            is_bound = True
        except ListenError as exc:
            log.error("admin listener failed", reason=exc.reason, message=str(exc), hint=exc.hint)
        if admin.socket is not None:
            try:
                await server.start_unix(admin.socket)
                log.info("taking orders", socket=str(admin.socket))
                is_bound = True
            except ListenError as exc:
                log.error("admin socket failed", reason=exc.reason, message=str(exc), hint=exc.hint)
        return is_bound

    @property
    def _status_command(self) -> str:
        """What names the daemon that has this one's addresses, whichever file that runs with."""
        return f"kubemux status --config {shlex.quote(str(self.config_path))}"

    def _start_heartbeat(self) -> None:
        interval = systemd.watchdog_interval()
        trim = Trim(lambda: self.shared.budget.used)

        def parts() -> Iterator[Part]:
            if interval is not None:
                yield "watchdog", partial(systemd.notify, systemd.WATCHDOG)
            yield "memory", self.shared.waiting.wake
            yield "heap", trim.check
            for name, gateway in self.gateways.items():
                yield f"gateway {name}", gateway.look
            for name, entry in self.entries.items():
                yield f"cluster {name}", partial(entry.look, self.sockets)

        heartbeat = Heartbeat(parts)
        watching = partial(watch_lag, self.metrics, heartbeat.beat, interval=min(0.5, interval or 0.5))
        self.tasks.keep(watching, name="heartbeat")

    # ------------------------------------------------------------------------------------------------ state

    def _gateway_changed(self, name: str) -> None:
        """Probe at once what a gateway that came or went leads to; not at every failed dial, which proves
        nothing new.
        """
        is_up = self.gateways[name].is_up if name in self.gateways else False
        is_news, self._up[name] = is_up != self._up.get(name), is_up
        for entry in self.entries.values():
            if entry.cluster.config.gateway == name:
                entry.admit_or_refuse(self.sockets)
                if is_news:
                    entry.monitor.poke()
        self.state_changed()

    def state_changed(self) -> None:
        """Something that `systemctl status` shows has changed; several changes of one turn are told once."""
        if self._status_due is None and self._is_started:
            self._status_due = self._loop.call_soon(self._tell_status)

    def _tell_status(self) -> None:
        self._status_due = None
        systemd.notify(systemd.status(summary(self.snapshot())))

    def snapshot(self) -> DaemonSnapshot:
        """The daemon at this moment."""
        bound = all(entry.listener.is_bound or entry.is_drained for entry in self.entries.values())
        return DaemonSnapshot(
            version=__version__,
            pid=os.getpid(),
            uptime=self._loop.time() - self._started_at,
            ready=self._is_started and bound and not self.is_draining,
            draining=self.is_draining,
            config_path=str(self.config_path),
            connections=self.shared.admission.active,
            buffered_bytes=self.shared.budget.used,
            memory_limit=self.shared.budget.limit,
            # In the order of the file, whatever reloads have replaced.
            gateways=tuple(
                self.gateways[name].snapshot() for name in self.config.gateways if name in self.gateways
            ),
            clusters=tuple(
                self.entries[name].snapshot() for name in self.config.clusters if name in self.entries
            ),
        )

    # ------------------------------------------------------------------------------------------------- stop

    async def drain(self, name: str) -> int:
        """Close the listener of cluster `name` and let its connections end; probes go on.

        Returns how many had to be cut.
        """
        entry = self.entries[name]
        entry.is_drained = True
        self.unlisten(entry)
        self.metrics.cluster(name).listening = False
        log.info("draining", cluster=name, connections=entry.cluster.active)
        cut = await entry.cluster.drain(self.config.limits.drain_timeout)
        log.info("drained", cluster=name, cut=cut)
        self.state_changed()
        return cut

    async def retire(self, name: str, entry: ServedCluster, *, timeout: float) -> None:  # noqa: ASYNC109 - a budget, not a failure
        """Stop probing, and drain what is left of a cluster whose listener is closed or handed on; cancelled,
        at once.
        """
        cut = 0
        try:
            await entry.tasks.close()
            cut = await entry.cluster.drain(timeout)
        except asyncio.CancelledError:
            cut = await entry.cluster.drain(0)
            raise
        finally:
            log.info("cluster stopped", cluster=name, cut=cut)

    async def stop(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 - a budget, not a failure
        """Accept no more, wait up to `timeout` seconds (default: limits.drain_timeout) for clients, close
        everything.
        """
        self.is_draining = True
        budget = self.config.limits.drain_timeout if timeout is None else timeout
        systemd.notify(systemd.STOPPING, systemd.status("draining"), systemd.extend(budget + CLOSING_S))
        log.info("stopping", connections=self.shared.admission.active, drain_timeout=budget)
        for entry in self.entries.values():
            entry.listener.close()
        drained = self.tasks.spawn(self._drain_all(budget), name="drain")
        hurried = self.tasks.spawn(self._hurry.wait(), name="hurry")
        await asyncio.wait({drained, hurried}, return_when=asyncio.FIRST_COMPLETED)
        await self._close()

    async def _drain_all(self, budget: float) -> None:
        await asyncio.gather(
            *(entry.cluster.drain(budget) for entry in self.entries.values()), self._retired(budget)
        )

    async def _retired(self, budget: float) -> None:
        # A budget of its own each has; they may be from a file that had a longer one.
        with suppress(TimeoutError):
            async with asyncio.timeout(budget + HALF_CLOSE_S):
                await self.retiring.wait()

    def hurry(self) -> None:
        """Let a stop wait for clients no longer.

        What it does after that has its own limits, and is done in full.
        """
        if not self._hurry.is_set():
            log.warning("stopping at once", message="second signal", connections=self.shared.admission.active)
            self._hurry.set()

    async def _close(self) -> None:
        if self._status_due is not None:
            self._status_due.cancel()
        await self.tasks.close()
        await self.retiring.close()
        await asyncio.gather(*(self.retire(name, entry, timeout=0) for name, entry in self.entries.items()))
        await asyncio.gather(*(gateway.close() for gateway in self.gateways.values()))
        if self._admin is not None:
            await self._admin.close()
        self.sockets.close()
        log.info("stopped")
