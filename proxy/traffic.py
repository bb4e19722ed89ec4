"""What the clients of a cluster do, in plain numbers: one writer, no locks, no labels; read by the scrape.

prometheus-client takes a lock for each sample and looks up a child for each label: 30 us of the 220 that a new connection
cost, and half a megabyte for a hundred clusters. These cost a `bisect`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

LATENCY_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Seconds: from below a loopback round trip to a client's patience."""
DURATION_BUCKETS: Final = (0.1, 1.0, 10.0, 60.0, 300.0, 1800.0, 3600.0, 14400.0, 43200.0, 86400.0)


class Durations:
    """A histogram of seconds."""

    __slots__ = ("_bounds", "_counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self.sum += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Upper bound and how many were at most that, as the exposition format has it."""
        total, found = 0, []
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            found.append((bound, float(total)))
        return found


class Traffic:
    """One cluster's clients."""

    __slots__ = ("channel_open", "closed", "duration", "first_byte", "from_cluster", "opened", "results", "to_cluster")

    def __init__(self) -> None:
        self.to_cluster = 0
        """Bytes."""
        self.from_cluster = 0
        self.opened = 0
        """Connections, since the start."""
        self.closed = 0
        self.results: Counter[str] = Counter()
        """How they ended."""
        self.channel_open = Durations(LATENCY_BUCKETS)
        self.first_byte = Durations(LATENCY_BUCKETS)
        self.duration = Durations(DURATION_BUCKETS)

    @property
    def active(self) -> int:
        """Connections open now."""
        return self.opened - self.closed


class TrafficCollector(Collector):
    """The traffic of every cluster, as Prometheus reads it."""

    def __init__(self) -> None:
        self.clusters: dict[str, Traffic] = {}

    def collect(self) -> Iterable[Metric]:
        """All families, also those without a sample yet."""
        by_cluster = ["cluster"]
        moved = CounterMetricFamily(
            "kubemux_bytes", "Bytes carried between clients and API servers.", labels=["cluster", "direction"]
        )
        active = GaugeMetricFamily("kubemux_connections_active", "Client connections open now.", labels=by_cluster)
        ended = CounterMetricFamily("kubemux_connections", "Client connections ended, by result.", labels=["cluster", "result"])
        duration = HistogramMetricFamily(
            "kubemux_connection_duration_seconds", "How long client connections lived.", labels=by_cluster
        )
        channel_open = HistogramMetricFamily(
            "kubemux_channel_open_seconds",
            "Time from a client's arrival to its open channel, waiting for a link included.",
            labels=by_cluster,
        )
        first_byte = HistogramMetricFamily(
            "kubemux_first_byte_seconds", "Time from a client's arrival to the first byte from its API server.", labels=by_cluster
        )
        for name, traffic in self.clusters.items():
            moved.add_metric([name, "to_cluster"], traffic.to_cluster)
            moved.add_metric([name, "from_cluster"], traffic.from_cluster)
            active.add_metric([name], traffic.active)
            for result, count in traffic.results.items():
                ended.add_metric([name, result], count)
            for family, durations in (
                (duration, traffic.duration),
                (channel_open, traffic.channel_open),
                (first_byte, traffic.first_byte),
            ):
                family.add_metric([name], durations.buckets(), durations.sum)
        yield from (moved, active, ended, duration, channel_open, first_byte)
