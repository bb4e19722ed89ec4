"""A cluster with its listener and its probes, and what the log and `status` show of them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import structlog

from proxy.config.listen import Permissions
from proxy.config.model import DIRECT, ClusterConfig
from proxy.daemon.cluster import Cluster
from proxy.daemon.connections import Connections, Shared
from proxy.entries.arrival import Arrival, Caller, ListenerArrival
from proxy.entries.fd_store import FdStore
from proxy.entries.keeping import KeptListener
from proxy.entries.listener import Listener
from proxy.errors import LinkDown, ListenError
from proxy.errors.reasons import Reason
from proxy.health.monitor import Monitor
from proxy.health.tls import Contexts
from proxy.relay.interfaces import Way
from proxy.runtime.tasks import Tasks
from proxy.snapshots import ClusterSnapshot

log = structlog.get_logger("kubemux.daemon")


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
        self.monitor = Monitor(
            name,
            config,
            self.cluster.dial,
            shared.metrics,
            on_change,
            contexts=contexts,
            is_idle=lambda: self.cluster.is_idle,
        )
        self.listener: KeptListener | None = None
        if config.listen is not None:
            self.listener = KeptListener(
                config.listen,
                self._client,
                store,
                owner={"cluster": name},
                permissions=Permissions.of(config.mode, config.group),
                on_change=self._bound_late,
                listener=listener,
            )
        self.is_drained = False
        self._shared = shared
        self._on_change = on_change
        self._tasks = Tasks(f"cluster {name}")
        self._record = shared.metrics.cluster(name)
        self._record.up = None if self.cluster.is_idle else False

    def __repr__(self) -> str:
        return f"<ServedCluster {self.cluster} {self.listener}>"

    @property
    def connections(self) -> Connections:
        """Those of its clients."""
        return self.cluster.connections

    async def start(self) -> None:
        """Start to probe, and to accept clients. If the address is not free, try to bind it until it is."""
        self._tasks.keep(self.monitor.run, name="probe")
        if self.listener is not None:
            await self.listener.start()
            self._record.listening = self.listener.is_bound

    def _client(self, sock: socket.socket, caller: Caller) -> None:
        self.accept(ListenerArrival(sock, self._shared.access.identified(sock, caller)))

    def accept(self, arrival: Arrival) -> None:
        """Serve a client, or refuse it."""
        if self.is_drained:
            self.connections.refuse(arrival, Reason.DRAINED, f"cluster {self.name} is drained")
        else:
            self.cluster.accept(arrival)

    def _bound_late(self) -> None:
        self._record.listening = True
        self._on_change()

    @property
    def is_listening(self) -> bool:
        """Whether it accepts clients, or need not: it was drained, or clients reach it only by name."""
        return self.is_drained or self.listener is None or self.listener.is_bound

    @property
    def listen_error(self) -> ListenError | None:
        """Why its address is not bound."""
        return self.listener.error if self.listener is not None and not self.is_drained else None

    def reconfigure(self, config: ClusterConfig, way: Way, *, has_changed: bool) -> None:
        """Use other settings for the same API servers and address, or another gateway of the same name.

        `has_changed`: whether the settings, or the files that they name, have changed. If so, probe at once.
        """
        self.cluster.reconfigure(config, way)
        if self.listener is not None:
            self.listener.set_permissions(Permissions.of(config.mode, config.group))
        if has_changed:
            self.monitor.reconfigure(config)

    # ------------------------------------------------------------------------------------- while it runs

    def beat(self) -> None:
        """What the heartbeat calls, about twice a second."""
        self.cluster.beat()
        self.admit_or_refuse()

    def admit_or_refuse(self) -> None:
        """Let the kernel refuse clients while the gateway has been down for longer than `hold_timeout`."""
        if self.listener is not None:
            self.listener.admit_or_refuse(
                is_hopeless=self.cluster.is_hopeless, because={"gateway": self.cluster.config.gateway}
            )

    def snapshot(self) -> ClusterSnapshot:
        cluster, outcome = self.cluster, self.monitor.outcome
        reason, message, hint = "", "", ""
        is_well = self.is_listening and outcome is not None and outcome.result.alive
        if outcome is not None:
            reason, message, hint = str(outcome.result), outcome.message, outcome.hint
            if cluster.config.gateway != DIRECT and not (cluster.has_link or cluster.is_idle):
                # The next probe will find that.
                is_well = False
                reason, message, hint = (
                    LinkDown.reason,
                    f"{cluster.config.gateway} has no link",
                    LinkDown.hint.replace("CLUSTER", self.name),
                )
        if self.is_drained:
            reason, message, hint = (
                Reason.DRAINED,
                "drained: it takes no connections",
                Reason.DRAINED.remedy,
            )
        elif error := self.listen_error:
            reason, message, hint = error.reason, str(error), error.hint
        return ClusterSnapshot(
            name=self.name,
            gateway=cluster.config.gateway,
            listen=str(cluster.config.listen or ""),
            listening=self.listener.is_bound if self.listener is not None else not self.is_drained,
            state=self.monitor.state,
            reason=reason,
            message="" if is_well else message,
            hint="" if is_well else hint,
            probe_seconds=outcome.seconds if outcome else None,
            api_server=str(cluster.order[0]),
            connections=cluster.connections.active,
            connections_total=cluster.connections.connections_total,
            bytes_to_cluster=cluster.connections.traffic.to_cluster,
            bytes_from_cluster=cluster.connections.traffic.from_cluster,
            certificate_expiry=outcome.certificate_expiry if outcome else None,
        )

    # ------------------------------------------------------------------------------------------- the end

    def stop_accepting(self) -> None:
        """Close the listener; systemd keeps its socket for the next process."""
        if self.listener is not None:
            self.listener.stop_accepting()

    def release_address(self) -> None:
        """Close the listener and free its address: new clients are refused, also while kubemux restarts."""
        if self.listener is not None:
            self.listener.release()

    async def drain(self, timeout: float) -> int:  # noqa: ASYNC109 - a budget, not a failure
        """Accept no more clients, and wait up to `timeout` seconds for open connections to end; probes go on.

        Returns how many connections it cut.
        """
        self.is_drained = True
        self.release_address()
        self._record.listening = False if self.listener else None
        if self.listener is not None:
            await self.listener.close()
        log.info("draining", cluster=self.name, connections=self.connections.active)
        cut = await self.connections.drain(timeout)
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
            if self.listener is not None:
                await self.listener.close()
            cut = await self.cluster.connections.drain(timeout)
        except asyncio.CancelledError:
            cut = await self.cluster.connections.drain(0)
            raise
        finally:
            log.info("cluster stopped", cluster=self.name, cut=cut)
