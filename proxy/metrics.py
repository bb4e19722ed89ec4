"""Every metric in one place, in an injected registry.

What happens once per connection or more often is counted in plain numbers (`proxy.traffic`) that are read when Prometheus
scrapes. Everything else is one of `proxy.series`. Label sets are bounded by the configuration; `forget_*` drops those
of what a reload removed.
"""

from __future__ import annotations

import platform

from proxy.series import Child, Counter, Gauge, Histogram, Labelled, Registry
from proxy.traffic import LATENCY_BUCKETS, Traffic, TrafficSeries

LAG_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)


class Metrics:
    """The daemon's metrics. One instance per registry; names as in the README's table."""

    def __init__(self, registry: Registry, *, version: str) -> None:
        self.registry = registry
        self._traffic = TrafficSeries(registry)

        def counter(name: str, text: str, *labels: str) -> Labelled[Counter]:
            return add(Labelled(f"kubemux_{name}", text, "counter", labels, Counter))

        def gauge(name: str, text: str, *labels: str) -> Labelled[Gauge]:
            return add(Labelled(f"kubemux_{name}", text, "gauge", labels, Gauge))

        def histogram(name: str, text: str, *labels: str, buckets: tuple[float, ...] = LATENCY_BUCKETS) -> Labelled[Histogram]:
            return add(Labelled(f"kubemux_{name}", text, "histogram", labels, lambda: Histogram(buckets)))

        def add(family: Labelled[Child]) -> Labelled[Child]:
            registry.families.append(family)
            return family

        self.cluster_up = gauge("cluster_up", "1 if the cluster's probes succeed, 0 if not.", "cluster")
        self.cluster_listening = gauge(
            "cluster_listening", "1 if the cluster's local address is bound, 0 if somebody else has it.", "cluster"
        )
        self.probe_duration = histogram("probe_duration_seconds", "Time a probe took, from channel to status line.", "cluster")
        self.probes = counter("probes", "Probes by result.", "cluster", "result")
        self.gateway_links = gauge("gateway_links", "Links that are up.", "gateway")
        self.gateway_links_retiring = gauge(
            "gateway_links_retiring", "Links that were replaced, and wait for their last channels to end.", "gateway"
        )
        self.gateway_connected = gauge("gateway_connected", "1 if at least one link is up.", "gateway")
        self.gateway_connects = counter("gateway_connects", "Dial attempts by result.", "gateway", "result")
        self.gateway_reconnects = counter(
            "gateway_reconnects", "Links dialled again after a loss, by the reason of the loss.", "gateway", "reason"
        )
        self.gateway_handshake = histogram(
            "gateway_handshake_seconds", "Time from TCP connect to an authenticated link.", "gateway"
        )
        self.gateway_rtt = gauge("gateway_rtt_seconds", "Last measured round trip to sshd, through the link.", "gateway")
        self.gateway_backoff = gauge("gateway_backoff_seconds", "Wait before the next dial attempt; 0 if none is due.", "gateway")
        self.gateway_credential_expiry = gauge(
            "gateway_credential_expiry_timestamp_seconds",
            "When a gateway's SSH certificate ends, in Unix time.",
            "gateway",
            "kind",
        )
        self.link_data_plane = gauge("link_data_plane", "Links by who carries their bytes.", "gateway", "mode")
        self.buffered_bytes = gauge(
            "buffered_bytes", "Bytes that buffers and granted windows may hold now, out of limits.memory."
        ).labels()
        self.paused_relays = gauge("paused_relays", "Connections of which a side waits for the other.").labels()
        self.tasks = gauge("tasks", "Tasks of the event loop.").labels()
        self.loop_lag = histogram("event_loop_lag_seconds", "How late the event loop runs a timer.", buckets=LAG_BUCKETS).labels()
        self.certificate_expiry = gauge(
            "certificate_expiry_timestamp_seconds", "When a certificate expires, in Unix time.", "cluster", "kind"
        )
        self.config_reloads = counter("config_reloads", "Configuration reloads by result.", "result")
        self.config_last_success = gauge(
            "config_last_reload_success_timestamp_seconds", "When a configuration was last taken, in Unix time."
        ).labels()
        gauge("build_info", "1, labelled with what runs.", "version", "python").labels(version, platform.python_version()).set(1)

    def traffic(self, cluster: str) -> Traffic:
        """The counters of `cluster`, made at first use."""
        return self._traffic.clusters.setdefault(cluster, Traffic())

    def forget_cluster(self, cluster: str) -> None:
        """Drop every series of a cluster that is configured no more."""
        self._traffic.clusters.pop(cluster, None)
        self._forget("cluster", cluster)

    def forget_gateway(self, gateway: str) -> None:
        """Drop every series of a gateway that is configured no more."""
        self._forget("gateway", gateway)

    def _forget(self, label: str, value: str) -> None:
        for metric in vars(self).values():
            if isinstance(metric, Labelled):
                metric.forget(label, value)
