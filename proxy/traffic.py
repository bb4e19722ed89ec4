"""What the clients of a cluster do, in plain numbers: one writer, no locks, no labels; read by the scrape.

A child that is looked up by its labels, and a lock for each sample, were 30 us of the 220 that a new connection cost. These
cost a `bisect`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Final

from proxy.series import Computed, Histogram, Registry, Sample, labelled

LATENCY_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Seconds: from below a loopback round trip to a client's patience."""
DURATION_BUCKETS: Final = (0.1, 1.0, 10.0, 60.0, 300.0, 1800.0, 3600.0, 14400.0, 43200.0, 86400.0)


class Traffic:
    """One cluster's clients."""

    __slots__ = ("channel_open", "closed", "connection_duration", "first_byte", "from_cluster", "opened", "results", "to_cluster")

    def __init__(self) -> None:
        self.to_cluster = 0
        """Bytes."""
        self.from_cluster = 0
        self.opened = 0
        """Connections, since the start."""
        self.closed = 0
        self.results: Counter[str] = Counter()
        """How they ended."""
        self.channel_open = Histogram(LATENCY_BUCKETS)
        self.first_byte = Histogram(LATENCY_BUCKETS)
        self.connection_duration = Histogram(DURATION_BUCKETS)

    @property
    def active(self) -> int:
        """Connections open now."""
        return self.opened - self.closed


class TrafficSeries:
    """The traffic of every cluster, as Prometheus reads it. Families are there before they have a sample."""

    def __init__(self, registry: Registry) -> None:
        self.clusters: dict[str, Traffic] = {}
        for name, text, kind, read in (
            ("bytes", "Bytes carried between clients and API servers.", "counter", self._bytes),
            ("connections_active", "Client connections open now.", "gauge", self._active),
            ("connections", "Client connections ended, by result.", "counter", self._results),
        ):
            registry.families.append(Computed(f"kubemux_{name}", text, kind, read))
        for name, text in (
            ("connection_duration", "How long client connections lived."),
            ("channel_open", "Time from a client's arrival to its open channel, waiting for a link included."),
            ("first_byte", "Time from a client's arrival to the first byte from its API server."),
        ):
            registry.families.append(Computed(f"kubemux_{name}_seconds", text, "histogram", partial(self._durations, name)))

    def _bytes(self) -> Iterator[Sample]:
        for name, traffic in self.clusters.items():
            yield Sample("_total", (("cluster", name), ("direction", "to_cluster")), traffic.to_cluster)
            yield Sample("_total", (("cluster", name), ("direction", "from_cluster")), traffic.from_cluster)

    def _active(self) -> Iterator[Sample]:
        for name, traffic in self.clusters.items():
            yield Sample("", (("cluster", name),), traffic.active)

    def _results(self) -> Iterator[Sample]:
        for name, traffic in self.clusters.items():
            for result, count in traffic.results.items():
                yield Sample("_total", (("cluster", name), ("result", result)), count)

    def _durations(self, which: str) -> Iterator[Sample]:
        for name, traffic in self.clusters.items():
            yield from labelled((("cluster", name),), getattr(traffic, which))
