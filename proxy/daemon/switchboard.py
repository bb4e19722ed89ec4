"""From what a client asks for to the destination that serves it."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from proxy.daemon.served import ServedCluster
from proxy.entries.arrival import Arrival
from proxy.errors import UnknownName
from proxy.errors.reasons import Reason
from proxy.metrics import Metrics
from proxy.runtime.text import suggest

log = structlog.get_logger("kubemux.connection")


class Switchboard:
    """Gives each client of an entry to the cluster that it asks for."""

    def __init__(self, clusters: Mapping[str, ServedCluster], metrics: Metrics) -> None:
        """`clusters` are those of the daemon at any time: a reload changes the mapping."""
        self._clusters = clusters
        self._metrics = metrics

    def accept(self, arrival: Arrival) -> None:
        """Serve a client that has asked for a name, or refuse it."""
        assert arrival.asked is not None  # noqa: S101 - only entries that are asked by name have a switchboard
        wanted = arrival.asked.host.lower()
        for name, cluster in self._clusters.items():
            if name.lower() == wanted:
                cluster.accept(arrival)
                return
        self._refuse(arrival, UnknownName.reason, suggest(wanted, sorted(self._clusters)))

    def _refuse(self, arrival: Arrival, reason: Reason, message: str) -> None:
        arrival.refuse(reason, message)
        arrival.ended(reason)
        log.warning("connection refused", **arrival.fields(), reason=reason, message=message)
