"""All metrics of a daemon, in a registry that the caller provides.

Metrics of clusters and gateways are counted in plain numbers (`proxy.metrics.records`). The few metrics of
the whole daemon are objects of prometheus-client. The configuration limits the number of series: `forget_*`
drops those of a cluster or gateway that a reload has removed.
"""

from __future__ import annotations

import platform
import time
from collections import Counter as Tally
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, disable_created_metrics
from prometheus_client.core import CounterMetricFamily
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from proxy.errors.reasons import Reason
from proxy.metrics import families, family
from proxy.metrics.records import (
    ClusterRecord,
    DiscoveryRecord,
    EntryRecord,
    GatewayRecord,
    LoginRecord,
    SiteRecord,
    Traffic,
)

LAG_BUCKETS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)

disable_created_metrics()  # type: ignore[no-untyped-call]  # `_created` would double the series of counters and histograms; 0.1.0 had none


class Metrics:
    """The daemon's metrics, one instance per registry. docs/operations.md lists them."""

    def __init__(
        self, registry: CollectorRegistry, *, version: str, dropped_entries: Callable[[], int] = int
    ) -> None:
        """`dropped_entries` returns how many log entries could not be written so far."""
        self.registry = registry
        self._records = _Records(dropped_entries)
        registry.register(self._records)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"kubemux_{name}", text, registry=registry)

        self.buffered_bytes = gauge(
            "buffered_bytes", "Bytes that buffers and granted windows may hold now, out of limits.memory."
        )
        self.paused_relays = gauge("paused_relays", "Connections of which one side waits for the other.")
        self.tasks = gauge("tasks", "Tasks of the event loop.")
        self.loop_lag = Histogram(
            "kubemux_event_loop_lag_seconds",
            "How late the event loop runs a timer.",
            buckets=LAG_BUCKETS,
            registry=registry,
        )
        self.config_reloads = Counter(
            "kubemux_config_reloads", "Configuration reloads by result.", ("result",), registry=registry
        )
        self.config_last_success = gauge(
            "config_last_reload_success_timestamp_seconds",
            "When a configuration was last loaded, in Unix time.",
        )
        build = Gauge(
            "kubemux_build_info",
            "Always 1; the labels are the versions of kubemux and Python.",
            ("version", "python"),
            registry=registry,
        )
        build.labels(version, platform.python_version()).set(1)
        self._whole: list[Collector] = [
            self.buffered_bytes,
            self.paused_relays,
            self.tasks,
            self.loop_lag,
            self.config_reloads,
            self.config_last_success,
            build,
        ]

    def watch_process(self) -> None:
        """Add the metrics of the process: `process_*`, `python_*`."""
        registry = self.registry
        self._whole += [
            _Process(registry=registry),
            GCCollector(registry=registry),
            PlatformCollector(registry=registry),
        ]

    def cluster(self, name: str) -> ClusterRecord:
        """The numbers of a cluster. The first call makes them."""
        return self._records.clusters[name]

    def gateway(self, name: str) -> GatewayRecord:
        """The numbers of a gateway. The first call makes them."""
        return self._records.gateways[name]

    def traffic(self, cluster: str) -> Traffic:
        """The numbers of a cluster's clients."""
        return self.cluster(cluster).traffic

    def route(self, name: str) -> Traffic:
        """The numbers of a route's clients. The first call makes them."""
        return self._records.routes[name]

    def site(self, name: str) -> SiteRecord:
        """The numbers of a site, and of clients that ask for names at it. The first call makes them."""
        return self._records.sites[name]

    def discovery(self, route: str) -> DiscoveryRecord:
        """New numbers for a route's pods."""
        record = self._records.discoveries[route] = DiscoveryRecord()
        return record

    def denied(self, entry: str, reason: Reason) -> None:
        """Count a client that `allow` or a failed login has refused."""
        self._records.denied[entry][reason] += 1

    def entry(self, name: str) -> EntryRecord:
        """The numbers of an entry. The first call makes them."""
        return self._records.entries[name]

    @property
    def logins(self) -> LoginRecord:
        """The numbers of logins at the SSH server."""
        return self._records.logins

    def forget_cluster(self, name: str) -> None:
        """Drop every series of a cluster that is no longer configured."""
        self._records.clusters.pop(name, None)

    def forget_gateway(self, name: str) -> None:
        """Drop every series of a gateway that is no longer configured."""
        self._records.gateways.pop(name, None)

    def forget_route(self, name: str) -> None:
        """Drop every series of a route that is no longer configured."""
        self._records.routes.pop(name, None)
        self.forget_discovery(name)

    def forget_site(self, name: str) -> None:
        """Drop every series of a site that is no longer configured."""
        self._records.sites.pop(name, None)
        self.forget_gateway(name)

    def forget_discovery(self, route: str) -> None:
        """Drop the series of a route that no longer has `discover`."""
        self._records.discoveries.pop(route, None)

    def forget_entry(self, name: str) -> None:
        """Drop every series of an entry that is no longer configured."""
        self._records.entries.pop(name, None)
        self._records.denied.pop(name, None)

    def pieces(self) -> Iterator[Metric]:
        """All families in pieces of a few samples. The pieces of one family follow each other.

        All records are copied before the first piece is made, so that all samples show the same moment.
        """
        yield from self._records.pieces()
        for collector in self._whole:
            yield from collector.collect()


class _Process(ProcessCollector):
    """prometheus-client's collector, with the boot time from the kernel's clock.

    The library reads the boot time from /proc/stat. The unit hides that file (`ProcSubset=pid`), and then the
    library reports nothing at all.
    """

    def _boot_time(self) -> float:
        return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


class _Records(Collector):
    """The collector of the families that are made from plain numbers."""

    def __init__(self, dropped_entries: Callable[[], int]) -> None:
        self.clusters: defaultdict[str, ClusterRecord] = defaultdict(ClusterRecord)
        self.gateways: defaultdict[str, GatewayRecord] = defaultdict(GatewayRecord)
        self.routes: defaultdict[str, Traffic] = defaultdict(Traffic)
        self.sites: defaultdict[str, SiteRecord] = defaultdict(SiteRecord)
        self.entries: defaultdict[str, EntryRecord] = defaultdict(EntryRecord)
        self.discoveries: dict[str, DiscoveryRecord] = {}
        self.denied: defaultdict[str, Tally[Reason]] = defaultdict(Tally)
        self.logins = LoginRecord()
        self._dropped_entries = dropped_entries

    def pieces(self) -> Iterator[Metric]:
        """See Metrics.pieces."""
        clusters = [(name, record.copy()) for name, record in self.clusters.items()]
        gateways = [(name, record.copy()) for name, record in self.gateways.items()]
        routes = [(name, record.copy()) for name, record in self.routes.items()]
        sites = [(name, record.copy()) for name, record in self.sites.items()]
        discoveries = [(name, record.copy()) for name, record in self.discoveries.items()]
        denied = [(name, record.copy()) for name, record in self.denied.items()]
        entries = [(name, record.copy()) for name, record in self.entries.items()]
        for of_clusters in families.CLUSTER:
            yield from family.pieces(of_clusters, clusters)
        for of_gateways in families.GATEWAY:
            yield from family.pieces(of_gateways, gateways)
        for of_routes in families.ROUTE:
            yield from family.pieces(of_routes, routes)
        for of_sites in families.SITE:
            yield from family.pieces(of_sites, sites)
        for of_discoveries in families.DISCOVERY:
            yield from family.pieces(of_discoveries, discoveries)
        for of_entries in families.ENTRY:
            yield from family.pieces(of_entries, entries)
        for of_denied in families.DENIED:
            yield from family.pieces(of_denied, denied)
        yield from families.logins(self.logins)
        yield CounterMetricFamily(
            "kubemux_log_entries_dropped",
            "Log entries that could not be written.",
            value=self._dropped_entries(),
        )

    def collect(self) -> Iterator[Metric]:
        """Each family as one metric, for callers that collect from the registry."""
        whole: dict[str, Metric] = {}
        for piece in self.pieces():
            if (family := whole.setdefault(piece.name, piece)) is not piece:
                family.samples += piece.samples
        yield from whole.values()
