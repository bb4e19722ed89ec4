"""A cluster with its listener and its probes, and what the log and `status` show of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import structlog

from proxy.config.model import DIRECT, ClusterConfig
from proxy.daemon.cluster import Cluster, Shared
from proxy.entries.fd_store import FdStore
from proxy.entries.listener import Listener
from proxy.errors import LinkDown, ListenError
from proxy.errors.reasons import Reason
from proxy.health.monitor import Monitor
from proxy.health.tls import Contexts
from proxy.relay.interfaces import Way
from proxy.runtime.systemd import Activated
from proxy.runtime.tasks import Tasks
from proxy.snapshots import ClusterSnapshot

log = structlog.get_logger("kubemux.daemon")

REBIND_S: Final = 5.0
"""Seconds between attempts to bind an address that another program has."""


class ServedCluster:
    """One of the daemon's clusters. It calls `on_change` when something has changed that `status` shows."""

    def __init__(
        self,
        name: str,
        config: ClusterConfig,
        way: Way,
        shared: Shared,
        *,
        store: FdStore,
        contexts: Contexts,
        on_change: Callable[[], None],
        listener: Listener | None = None,
    ) -> None:
        """`listener` is the listener of another cluster, which had the same address until now. It stays
        bound, so that no client is refused in between.
        """
        self.name = name
        self.cluster = Cluster(name, config, way, shared)
        self.monitor = Monitor(name, config, self.cluster.dial, shared.metrics, on_change, contexts=contexts)
        if listener is None:
            listener = Listener(config.listen, self.cluster.accept, inherited=store.claim(config.listen))
        listener.on_client = self.cluster.accept
        self.listener = listener
        self.listen_error: ListenError | None = None
        self.is_drained = False
        self._store = store
        self._on_change = on_change
        self._tasks = Tasks(f"cluster {name}")
        self._record = shared.metrics.cluster(name)
        self._record.up = False

    def __repr__(self) -> str:
        return f"<ServedCluster {self.cluster} {self.listener}>"

    async def start(self) -> None:
        """Start to probe, and to accept clients. If the address is not free, try to bind it until it is."""
        self._tasks.keep(self.monitor.run, name="probe")
        try:
            await self.listener.start()
        except ListenError as exc:
            log.error(
                "listener failed", cluster=self.name, reason=exc.reason, message=str(exc), hint=exc.hint
            )
            # A copy, without the traceback of `exc`, which would keep the frames and their objects alive.
            self.listen_error = ListenError(str(exc), hint=exc.hint)
            self._tasks.keep(self._keep_binding, name="bind")
        self._store_listener()
        self._record.listening = self.listener.is_bound

    def reconfigure(self, config: ClusterConfig, way: Way, *, has_changed: bool) -> None:
        """Use other settings for the same API servers and address, or another gateway of the same name.

        `has_changed`: whether the settings, or the files that they name, have changed. If so, probe at once.
        """
        self.cluster.reconfigure(config, way)
        if has_changed:
            self.monitor.reconfigure(config)

    async def _keep_binding(self) -> None:
        while not self.listener.is_bound:
            await asyncio.sleep(REBIND_S)
            if self.is_drained:
                return
            with suppress(ListenError):
                await self.listener.start()
        self.listen_error = None
        self._store_listener()
        self._record.listening = True
        log.info("listener bound", cluster=self.name, listen=str(self.listener.address))
        self._on_change()

    def _store_listener(self) -> None:
        if self.listener.sock is not None and not self.listener.is_refusing:
            self._store.keep(self.listener.address, self.listener.sock)

    # ------------------------------------------------------------------------------------- while it runs

    def beat(self) -> None:
        """What the heartbeat calls, about twice a second."""
        self.cluster.drop_reset_clients()
        self.cluster.end_idle()
        self.admit_or_refuse()

    def admit_or_refuse(self) -> None:
        """Let the kernel refuse clients while the gateway has been down for longer than `hold_timeout`."""
        listener, is_hopeless = self.listener, self.cluster.is_hopeless
        if is_hopeless == listener.is_refusing or listener.sock is None:
            return
        if isinstance(listener.sock, Activated):  # the unit owns it: `Cluster` resets the client
            return
        if is_hopeless:
            self._store.forget(listener.address)  # systemd drops a socket that was shut down
            listener.refuse()
            event = "clients are refused"
        else:
            try:
                listener.admit()
            except OSError as exc:  # tried again with the next beat
                log.warning(
                    "clients cannot be served again yet", listen=str(listener.address), message=exc.strerror
                )
                return
            self._store.keep(listener.address, listener.sock)
            event = "clients are served again"
        log.info(event, cluster=self.name, gateway=self.cluster.config.gateway, listen=str(listener.address))

    def snapshot(self) -> ClusterSnapshot:
        cluster, outcome = self.cluster, self.monitor.outcome
        reason, message, hint = "", "", ""
        is_well = self.listener.is_bound and outcome is not None and outcome.result.alive
        if outcome is not None:
            reason, message, hint = str(outcome.result), outcome.message, outcome.hint
            if cluster.config.gateway != DIRECT and not cluster.has_link:  # the next probe will find that
                is_well = False
                reason, message, hint = (
                    LinkDown.reason,
                    f"gateway {cluster.config.gateway} has no link",
                    LinkDown.hint.replace("CLUSTER", self.name),
                )
        if self.is_drained:
            reason, message, hint = (
                Reason.DRAINED,
                "drained: it takes no connections",
                Reason.DRAINED.remedy,
            )
        elif self.listen_error:
            reason, message, hint = ListenError.reason, str(self.listen_error), self.listen_error.hint
        return ClusterSnapshot(
            name=self.name,
            gateway=cluster.config.gateway,
            listen=str(cluster.config.listen),
            listening=self.listener.is_bound,
            state=self.monitor.state,
            reason=reason,
            message="" if is_well else message,
            hint="" if is_well else hint,
            probe_seconds=outcome.seconds if outcome else None,
            api_server=str(cluster.order[0]),
            connections=cluster.active,
            connections_total=cluster.connections_total,
            bytes_to_cluster=cluster.traffic.to_cluster,
            bytes_from_cluster=cluster.traffic.from_cluster,
            certificate_expiry=outcome.certificate_expiry if outcome else None,
        )

    # ------------------------------------------------------------------------------------------- the end

    def release_address(self) -> None:
        """Close the listener and free its address: new clients are refused, also while kubemux restarts."""
        self.listener.release()
        self._store.forget(self.listener.address)

    async def drain(self, timeout: float) -> int:  # noqa: ASYNC109 - a budget, not a failure
        """Accept no more clients, and wait up to `timeout` seconds for open connections to end; probes go on.

        Returns how many connections it cut.
        """
        self.is_drained = True
        self.release_address()
        self._record.listening = False
        log.info("draining", cluster=self.name, connections=self.cluster.active)
        cut = await self.cluster.drain(timeout)
        log.info("drained", cluster=self.name, cut=cut)
        self._on_change()
        return cut

    async def retire(self, timeout: float) -> None:  # noqa: ASYNC109 - a budget, not a failure
        """Stop probing, and wait up to `timeout` seconds for open connections to end.

        If it is cancelled, it cuts them at once. The listener must be closed before, or belong to another
        cluster by now.
        """
        cut = 0
        try:
            await self._tasks.close()
            cut = await self.cluster.drain(timeout)
        except asyncio.CancelledError:
            cut = await self.cluster.drain(0)
            raise
        finally:
            log.info("cluster stopped", cluster=self.name, cut=cut)
