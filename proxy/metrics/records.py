"""Counts what happens, in plain numbers: one record for each cluster, gateway, route, site and entry.

A scrape makes its answer in pieces, while the numbers change. So it copies each record first (`copy`).

prometheus-client's own counters and histograms take a lock and look up labels: 30 us of the 220 us that a new
connection cost. Here only the event loop's thread writes, so no lock is needed; an observation costs a
`bisect`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from proxy.errors.reasons import Reason

LATENCY_BUCKETS: Final = (
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
)
"""Bounds in seconds: from less than a round trip on loopback to the longest wait of a client."""
DURATION_BUCKETS: Final = (0.1, 1.0, 10.0, 60.0, 300.0, 1800.0, 3600.0, 14400.0, 43200.0, 86400.0)

Buckets = list[tuple[str, float]]
"""The upper bound of each bucket, and how many observations were not above it."""


class Histogram:
    """A histogram: how many observations fell into each bucket."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """One count for each bucket, not cumulative."""
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count `value` in its bucket."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def copy(self) -> Histogram:
        twin = Histogram.__new__(Histogram)
        twin.bounds, twin.counts, twin.sum = self.bounds, self.counts.copy(), self.sum
        return twin

    def buckets(self) -> Buckets:
        """The cumulative counts that `HistogramMetricFamily.add_metric` wants."""
        return list(zip((*map(str, self.bounds), "+Inf"), accumulate(self.counts), strict=True))


class Traffic:
    """The numbers of the clients of one cluster, route or site."""

    __slots__ = (
        "channel_open",
        "closed",
        "connection_duration",
        "first_byte",
        "from_cluster",
        "opened",
        "results",
        "to_cluster",
    )

    def __init__(self) -> None:
        self.to_cluster = 0
        """Bytes; so is `from_cluster`."""
        self.from_cluster = 0
        self.opened = 0
        """Connections since the start; `closed` counts those that have ended."""
        self.closed = 0
        self.results: Counter[Reason] = Counter()
        """How many connections ended for each reason."""
        self.channel_open = Histogram(LATENCY_BUCKETS)
        self.first_byte = Histogram(LATENCY_BUCKETS)
        self.connection_duration = Histogram(DURATION_BUCKETS)

    @property
    def active(self) -> int:
        """Connections open now."""
        return self.opened - self.closed

    def copy(self) -> Traffic:
        twin = Traffic.__new__(Traffic)
        self._copy_to(twin)
        return twin

    def _copy_to(self, twin: Traffic) -> None:
        twin.to_cluster, twin.from_cluster = self.to_cluster, self.from_cluster
        twin.opened, twin.closed, twin.results = self.opened, self.closed, self.results.copy()
        twin.channel_open, twin.first_byte = self.channel_open.copy(), self.first_byte.copy()
        twin.connection_duration = self.connection_duration.copy()


class SiteRecord(Traffic):
    """A site, and the numbers of clients that ask for names at it."""

    __slots__ = ("is_connected",)

    def __init__(self) -> None:
        super().__init__()
        self.is_connected = False

    def copy(self) -> SiteRecord:
        twin = SiteRecord.__new__(SiteRecord)
        self._copy_to(twin)
        twin.is_connected = self.is_connected
        return twin


class EntryRecord:
    """The numbers of one entry's clients, also those that are refused before they reach a destination."""

    __slots__ = ("closed", "opened", "results")

    def __init__(self) -> None:
        self.opened = 0
        self.closed = 0
        self.results: Counter[Reason] = Counter()

    def ended(self, reason: Reason) -> None:
        """Count the end of a connection."""
        self.closed += 1
        self.results[reason] += 1

    @property
    def active(self) -> int:
        """Connections open now."""
        return self.opened - self.closed

    def copy(self) -> EntryRecord:
        twin = EntryRecord.__new__(EntryRecord)
        twin.opened, twin.closed, twin.results = self.opened, self.closed, self.results.copy()
        return twin


class DiscoveryRecord:
    """The numbers of one route's pods."""

    __slots__ = ("is_watched", "pods")

    def __init__(self) -> None:
        self.pods = 0
        self.is_watched: bool | None = None
        """None until it is known."""

    def copy(self) -> DiscoveryRecord:
        twin = DiscoveryRecord.__new__(DiscoveryRecord)
        twin.pods, twin.is_watched = self.pods, self.is_watched
        return twin


class LoginRecord:
    """The results of logins at the SSH server."""

    __slots__ = ("results", "startups")

    def __init__(self) -> None:
        self.results: Counter[Reason] = Counter()
        self.startups = 0
        """Connections that have not logged in yet."""


class ClusterRecord:
    """The numbers of one cluster. A value of None is not known yet, and has no sample."""

    __slots__ = ("certificate_expiry", "listening", "probe_duration", "probes", "traffic", "up")

    def __init__(self) -> None:
        self.traffic = Traffic()
        self.up: bool | None = None
        self.listening: bool | None = None
        self.probes: Counter[str] = Counter()
        """By result."""
        self.probe_duration = Histogram(LATENCY_BUCKETS)
        self.certificate_expiry: dict[str, float] = {}
        """Unix time, by kind."""

    def copy(self) -> ClusterRecord:
        twin = ClusterRecord.__new__(ClusterRecord)
        twin.traffic, twin.up, twin.listening = self.traffic.copy(), self.up, self.listening
        twin.probes, twin.probe_duration = self.probes.copy(), self.probe_duration.copy()
        twin.certificate_expiry = self.certificate_expiry.copy()
        return twin


class GatewayRecord:
    """The numbers of one gateway."""

    __slots__ = (
        "backoff",
        "connects",
        "credential_expiry",
        "handshake",
        "is_idle",
        "links",
        "live",
        "planes",
        "reconnects",
        "retiring",
        "rtt",
    )

    def __init__(self) -> None:
        self.links = 0
        self.is_idle = False
        """Whether there is no link because no client needs one."""
        self.live: int | None = None
        """The hosts of a pattern that are known now."""
        self.retiring = 0
        self.connects: Counter[Reason] = Counter()
        """Dials by result."""
        self.reconnects: Counter[Reason] = Counter()
        """By the reason of the loss."""
        self.handshake = Histogram(LATENCY_BUCKETS)
        self.rtt: float | None = None
        """Seconds."""
        self.backoff = 0.0
        self.credential_expiry: dict[str, float] = {}
        """Unix time, by kind."""
        self.planes: dict[str, int] = {}
        """How many links use each data plane."""

    def copy(self) -> GatewayRecord:
        twin = GatewayRecord.__new__(GatewayRecord)
        twin.links, twin.retiring, twin.rtt, twin.backoff = self.links, self.retiring, self.rtt, self.backoff
        twin.is_idle, twin.live = self.is_idle, self.live
        twin.connects, twin.reconnects, twin.planes = (
            self.connects.copy(),
            self.reconnects.copy(),
            self.planes.copy(),
        )
        twin.handshake, twin.credential_expiry = self.handshake.copy(), self.credential_expiry.copy()
        return twin

    def part(self) -> GatewayRecord:
        """The record of one host of a pattern. Its counters are also counted here, and stay when the host is
        forgotten.
        """
        part = GatewayRecord()
        part.connects, part.reconnects, part.handshake = self.connects, self.reconnects, self.handshake
        return part

    def sum(self, parts: Sequence[GatewayRecord]) -> None:
        """Update the gauges from all hosts of a pattern: of durations the longest, of dates the earliest."""
        self.live = len(parts)
        self.is_idle = all(part.is_idle for part in parts)
        self.links = sum(part.links for part in parts)
        self.retiring = sum(part.retiring for part in parts)
        self.backoff = max((part.backoff for part in parts), default=0.0)
        self.rtt = max((part.rtt for part in parts if part.rtt is not None), default=None)
        self.planes = {
            mode: sum(part.planes.get(mode, 0) for part in parts)
            for mode in {*self.planes, *(mode for part in parts for mode in part.planes)}
        }
        self.credential_expiry = {
            kind: min(part.credential_expiry[kind] for part in parts if kind in part.credential_expiry)
            for kind in {kind for part in parts for kind in part.credential_expiry}
        }
