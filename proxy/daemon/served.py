"""A cluster at work with what watches over it: its probes, and a local address that refuses clients while
there is no way.
"""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from proxy.config.model import DIRECT
from proxy.daemon.cluster import Cluster
from proxy.entries.fd_store import FdStore
from proxy.entries.listener import Listener
from proxy.errors import LinkDown, ListenError
from proxy.health.monitor import Monitor
from proxy.runtime.systemd import Activated
from proxy.runtime.tasks import Tasks
from proxy.snapshots import ClusterSnapshot

log = structlog.get_logger("kubemux.daemon")


@dataclass(slots=True)
class ServedCluster:
    """One of the daemon's clusters."""

    cluster: Cluster
    monitor: Monitor
    listener: Listener
    tasks: Tasks
    listen_error: ListenError | None = None
    is_drained: bool = False

    def look(self, store: FdStore) -> None:
        """Call it about twice a second, and when the gateway's links have changed."""
        self.cluster.drop_ghosts()
        self.cluster.end_idle()
        self.admit_or_refuse(store)

    def admit_or_refuse(self, store: FdStore) -> None:
        """Have clients refused while the gateway has been down for longer than they would be held."""
        listener, is_hopeless = self.listener, self.cluster.is_hopeless
        if is_hopeless == listener.is_refusing or listener.sock is None:
            return
        if isinstance(listener.sock, Activated):  # such a client is reset when it is accepted
            return
        if is_hopeless:
            store.forget(listener.address)  # systemd drops from its store what is shut down
            listener.refuse()
            event = "clients are refused"
        else:
            try:
                listener.admit()
            except OSError as exc:  # tried again with the next look
                log.warning(
                    "clients cannot be served again yet", listen=str(listener.address), message=exc.strerror
                )
                return
            store.keep(listener.address, listener.sock)
            event = "clients are served again"
        log.info(
            event,
            cluster=self.cluster.name,
            gateway=self.cluster.config.gateway,
            listen=str(listener.address),
        )

    def snapshot(self) -> ClusterSnapshot:
        """For status."""
        cluster, outcome = self.cluster, self.monitor.outcome
        reason, message, hint = "", "", ""
        is_well = self.listener.is_bound and outcome is not None and outcome.result.alive
        if outcome is not None:
            reason, message, hint = str(outcome.result), outcome.message, outcome.hint
            if cluster.config.gateway != DIRECT and not cluster.has_link:  # the next probe will say so
                is_well = False
                reason, message, hint = (
                    LinkDown.reason,
                    f"gateway {cluster.config.gateway} has no link",
                    LinkDown.hint,
                )
        if self.is_drained:
            reason, message, hint = (
                "drained",
                "drained: it takes no connections",
                "kubemux reload opens it again",
            )
        elif self.listen_error:
            reason, message, hint = ListenError.reason, str(self.listen_error), self.listen_error.hint
        return ClusterSnapshot(
            name=cluster.name,
            gateway=cluster.config.gateway,
            listen=str(cluster.config.listen),
            listening=self.listener.is_bound,
            state=self.monitor.state,
            reason=reason,
            message="" if is_well else message,
            hint="" if is_well else hint,
            probe_seconds=outcome.seconds if outcome else None,
            api_server=str(cluster.line[0]),
            connections=cluster.active,
            connections_total=cluster.connections_total,
            bytes_to_cluster=cluster.traffic.to_cluster,
            bytes_from_cluster=cluster.traffic.from_cluster,
            certificate_expiry=outcome.certificate_expiry if outcome else None,
        )
