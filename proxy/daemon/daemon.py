"""The running daemon: it starts and stops the gateways, the clusters and the admin endpoints, and tells
systemd their state.

The gateways and clusters, and what changes them, are in `proxy/daemon/graph.py`.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import socket
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import structlog
from prometheus_client import CollectorRegistry

from proxy import __version__
from proxy.admin.orders import Control
from proxy.admin.server import AdminServer
from proxy.admin.status import summary
from proxy.config.model import AdminConfig, Config
from proxy.daemon import access
from proxy.daemon.graph import Graph
from proxy.daemon.handing_on import addresses
from proxy.daemon.heartbeat import Heartbeat, Part
from proxy.daemon.status_line import StatusLine
from proxy.entries.binding import bind
from proxy.entries.fd_store import FdStore
from proxy.errors import ListenError
from proxy.health.lag import watch_lag
from proxy.metrics import Metrics
from proxy.runtime import systemd
from proxy.runtime.blocking import Place
from proxy.runtime.endpoint import Local
from proxy.runtime.logging import dropped_entries
from proxy.runtime.malloc import Trim
from proxy.runtime.tasks import Tasks
from proxy.snapshots import DaemonSnapshot

log = structlog.get_logger("kubemux.daemon")

CLOSING_S: Final = 15.0
"""Seconds that a stop may take after `drain_timeout`, to close connections, links and admin endpoints."""


class Daemon:
    """What one kubemux process runs."""

    def __init__(
        self,
        config: Config,
        *,
        config_path: Path,
        sockets: Mapping[Local, socket.socket] | None = None,
        fingerprint: Mapping[Path, bytes] | None = None,
    ) -> None:
        """`sockets`: the listening sockets that systemd has passed. `fingerprint`: the digests of the files
        that `config` names, as far as they could be read (`proxy.config.apart`).
        """
        self.config_path = config_path
        self.metrics = Metrics(CollectorRegistry(), version=__version__, dropped_entries=dropped_entries)
        self.metrics.watch_process()
        self.tasks = Tasks("daemon")
        self.is_draining = False
        self._store = FdStore(sockets or {})
        self.graph = Graph(
            config,
            fingerprint=fingerprint or {},
            store=self._store,
            metrics=self.metrics,
            on_change=self._state_changed,
        )
        self._admin: AdminServer | None = None
        self._loop = asyncio.get_running_loop()
        self._started_at = self._loop.time()
        self._status_line = StatusLine(lambda: summary(self.snapshot()))
        self._is_started = False
        self._hurry = asyncio.Event()
        self.metrics.tasks.set_function(lambda: len(asyncio.all_tasks(self._loop)))

    def __repr__(self) -> str:
        return f"<Daemon {self.config_path} {self.graph}>"

    # ------------------------------------------------------------------------------------------------ start

    async def start(self, control: Control) -> None:
        """Bind every listener, begin to dial, serve the admin endpoints, and tell systemd that we are ready.

        An address that cannot be bound is logged, and tried again. Raises ListenError if none can be, and
        ConfigError if this system cannot tell who a caller is, and a rule needs that.
        """
        config, clusters = self.graph.config, self.graph.clusters
        access.check(config, self.config_path)
        await self._store.close_unwanted([config.admin.listen, *addresses(config)])
        await self.graph.start()
        self._admin = AdminServer(snapshot=self.snapshot, metrics=self.metrics, control=control)
        is_asked = await self._start_admin(self._admin, config.admin)
        listening = sum(cluster.is_listening for cluster in clusters.values())
        if clusters and not is_asked and not listening:
            raise ListenError(
                f"not one address of {self.config_path} can be bound, nor {config.admin.listen}",
                hint=f"is kubemux running already? {self._status_command} tells",
            )
        self._start_heartbeat()
        self.metrics.config_last_success.set_to_current_time()
        self._is_started = True
        log.info(
            "started",
            config=str(self.config_path),
            gateways=len(self.graph.gateways),
            clusters=len(clusters),
            listening=listening,
            version=__version__,
        )
        await systemd.ready(systemd.status(summary(self.snapshot())))

    async def _start_admin(self, server: AdminServer, admin: AdminConfig) -> bool:
        """Serve the admin endpoints. Returns whether at least one address could be bound."""
        is_bound = False
        try:
            sock = self._store.claim(admin.listen) or await bind(admin.listen, Place("names of admin.listen"))
            self._store.keep(admin.listen, sock)
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
        """The command that shows which daemon has the addresses of this configuration."""
        return f"kubemux status --config {shlex.quote(str(self.config_path))}"

    def _start_heartbeat(self) -> None:
        interval = systemd.watchdog_interval()
        shared = self.graph.shared
        trim = Trim(lambda: shared.budget.used)

        def parts() -> Iterator[Part]:
            if interval is not None:
                yield "watchdog", partial(systemd.notify, systemd.WATCHDOG)
            yield "memory", shared.waiting.wake
            yield "heap", trim.check
            yield from self.graph.parts()

        heartbeat = Heartbeat(parts)
        watching = partial(watch_lag, self.metrics, heartbeat.beat, interval=min(0.5, interval or 0.5))
        self.tasks.keep(watching, name="heartbeat")

    # ------------------------------------------------------------------------------------------------ state

    def _state_changed(self) -> None:
        """Update what `systemctl status` shows."""
        if self._is_started:
            self._status_line.changed()

    def snapshot(self) -> DaemonSnapshot:
        """The daemon at this moment."""
        graph, shared = self.graph, self.graph.shared
        gateways, clusters, entries, routes, sites = graph.snapshot()
        return DaemonSnapshot(
            version=__version__,
            pid=os.getpid(),
            uptime=self._loop.time() - self._started_at,
            ready=self._is_started and graph.is_listening and not self.is_draining,
            draining=self.is_draining,
            config_path=str(self.config_path),
            connections=shared.admission.active,
            buffered_bytes=shared.budget.used,
            memory_limit=shared.budget.limit,
            gateways=gateways,
            clusters=clusters,
            entries=entries,
            routes=routes,
            sites=sites,
            users=graph.ssh.users(),
        )

    # ------------------------------------------------------------------------------------------------- stop

    async def stop(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 - a budget, not a failure
        """Accept no more, wait up to `timeout` seconds (default: limits.drain_timeout) for clients, close
        everything.
        """
        self.is_draining = True
        budget = self.graph.config.limits.drain_timeout if timeout is None else timeout
        systemd.notify(systemd.STOPPING, systemd.status("draining"), systemd.extend(budget + CLOSING_S))
        log.info("stopping", connections=self.graph.shared.admission.active, drain_timeout=budget)
        self.graph.close_listeners()
        drained = self.tasks.spawn(self.graph.drain(budget), name="drain")
        hurried = self.tasks.spawn(self._hurry.wait(), name="hurry")
        await asyncio.wait({drained, hurried}, return_when=asyncio.FIRST_COMPLETED)
        await self._close()

    def hurry(self) -> None:
        """Make `stop` wait for clients no longer. Its later steps have their own deadlines."""
        if not self._hurry.is_set():
            log.warning(
                "stopping at once", message="second signal", connections=self.graph.shared.admission.active
            )
            self._hurry.set()

    async def _close(self) -> None:
        self._status_line.close()
        await self.tasks.close()
        await self.graph.close()
        if self._admin is not None:
            await self._admin.close()
        self._store.close()
        log.info("stopped")
