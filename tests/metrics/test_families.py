"""The metric names that dashboards and alerts use: each family of 0.1.0 still exists, with the same labels
and type.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry

from proxy.errors.reasons import Reason
from proxy.metrics import Metrics

CLUSTER: Final = ("cluster",)
GATEWAY: Final = ("gateway",)

RELEASED: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "process_virtual_memory_bytes": ("gauge", ()),
    "process_resident_memory_bytes": ("gauge", ()),
    "process_start_time_seconds": ("gauge", ()),
    "process_cpu_seconds": ("counter", ()),
    "process_open_fds": ("gauge", ()),
    "process_max_fds": ("gauge", ()),
    "python_gc_collections": ("counter", ("generation",)),
    "python_gc_objects_collected": ("counter", ("generation",)),
    "python_gc_objects_uncollectable": ("counter", ("generation",)),
    "python_info": ("gauge", ("implementation", "version")),
    "kubemux_bytes": ("counter", ("cluster", "direction")),
    "kubemux_connections_active": ("gauge", CLUSTER),
    "kubemux_connections": ("counter", ("cluster", "result")),
    "kubemux_connection_duration_seconds": ("histogram", CLUSTER),
    "kubemux_channel_open_seconds": ("histogram", CLUSTER),
    "kubemux_first_byte_seconds": ("histogram", CLUSTER),
    "kubemux_cluster_up": ("gauge", CLUSTER),
    "kubemux_cluster_listening": ("gauge", CLUSTER),
    "kubemux_probe_duration_seconds": ("histogram", CLUSTER),
    "kubemux_probes": ("counter", ("cluster", "result")),
    "kubemux_gateway_links": ("gauge", GATEWAY),
    "kubemux_gateway_links_retiring": ("gauge", GATEWAY),
    "kubemux_gateway_connected": ("gauge", GATEWAY),
    "kubemux_gateway_connects": ("counter", ("gateway", "result")),
    "kubemux_gateway_reconnects": ("counter", ("gateway", "reason")),
    "kubemux_gateway_handshake_seconds": ("histogram", GATEWAY),
    "kubemux_gateway_rtt_seconds": ("gauge", GATEWAY),
    "kubemux_gateway_backoff_seconds": ("gauge", GATEWAY),
    "kubemux_gateway_credential_expiry_timestamp_seconds": ("gauge", ("gateway", "kind")),
    "kubemux_link_data_plane": ("gauge", ("gateway", "mode")),
    "kubemux_buffered_bytes": ("gauge", ()),
    "kubemux_paused_relays": ("gauge", ()),
    "kubemux_tasks": ("gauge", ()),
    "kubemux_event_loop_lag_seconds": ("histogram", ()),
    "kubemux_certificate_expiry_timestamp_seconds": ("gauge", ("cluster", "kind")),
    "kubemux_config_reloads": ("counter", ("result",)),
    "kubemux_config_last_reload_success_timestamp_seconds": ("gauge", ()),
    "kubemux_build_info": ("gauge", ("version", "python")),
}

ADDED: Final = {
    "kubemux_log_entries_dropped": ("counter", ()),
    "kubemux_entry_connections": ("counter", ("entry", "result")),
    "kubemux_entry_connections_active": ("gauge", ("entry",)),
    "kubemux_on_demand_gateways": ("gauge", ("gateway",)),
    "kubemux_route_bytes": ("counter", ("route", "direction")),
    "kubemux_route_connections": ("counter", ("route", "result")),
    "kubemux_route_channel_open_seconds": ("histogram", ("route",)),
    "kubemux_route_first_byte_seconds": ("histogram", ("route",)),
    "kubemux_discovery_up": ("gauge", ("route",)),
    "kubemux_discovered_pods": ("gauge", ("route",)),
    "kubemux_denied": ("counter", ("entry", "reason")),
    "kubemux_ssh_logins": ("counter", ("result",)),
    "kubemux_ssh_startups": ("gauge", ()),
    "kubemux_site_connected": ("gauge", ("site",)),
    "kubemux_site_bytes": ("counter", ("site", "direction")),
    "kubemux_site_connections": ("counter", ("site", "result")),
    "kubemux_site_channel_open_seconds": ("histogram", ("site",)),
    "kubemux_site_first_byte_seconds": ("histogram", ("site",)),
}


def filled() -> CollectorRegistry:
    """A registry in which each family has a sample."""
    registry = CollectorRegistry()
    metrics = Metrics(registry, version="0")
    metrics.watch_process()
    cluster = metrics.cluster("one")
    cluster.traffic.results[Reason.CLIENT_CLOSED] += 1
    cluster.probes["ok"] += 1
    cluster.up = cluster.listening = True
    cluster.certificate_expiry["server"] = 1
    gateway = metrics.gateway("one")
    gateway.live = 1
    gateway.rtt = 1
    gateway.credential_expiry["user"] = gateway.planes["native"] = 1
    gateway.connects[Reason.OK] = gateway.reconnects[Reason.LINK_LOST] = 1
    metrics.denied("one", Reason.DENIED)
    metrics.discovery("one").is_watched = True
    metrics.logins.results[Reason.OK] += 1
    metrics.route("one").results[Reason.CLIENT_CLOSED] += 1
    metrics.site("one").results[Reason.CLIENT_CLOSED] += 1
    metrics.entry("one").ended(Reason.CLIENT_CLOSED)
    metrics.config_reloads.labels("ok").inc()
    return registry


def test_released_metrics_keep_their_types_and_labels() -> None:
    labels: dict[str, set[str]] = {}
    kinds: dict[str, str] = {}
    for family in filled().collect():
        kinds[family.name] = family.type
        labels.setdefault(family.name, set()).update(
            name for sample in family.samples for name in sample.labels if name != "le"
        )
    for name, (kind, expected) in (RELEASED | ADDED).items():
        assert kinds.get(name) == kind, name
        # With the library, python_info has more labels.
        assert labels[name] >= set(expected), name
        assert labels[name] == set(expected) or name == "python_info", name
    assert {name for name in kinds if name.startswith("kubemux_")} <= (RELEASED | ADDED).keys()
