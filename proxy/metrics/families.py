"""The families of `/metrics` that are made from records, by what their records describe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from proxy.errors.reasons import Reason
from proxy.metrics.family import COUNTER, GAUGE, Family, Numbers, Plain, Timed, items, known
from proxy.metrics.records import (
    ClusterRecord,
    DiscoveryRecord,
    EntryRecord,
    GatewayRecord,
    LoginRecord,
    SiteRecord,
    Traffic,
)


def _bytes(traffic: Traffic) -> Numbers:
    return (("to_cluster",), traffic.to_cluster), (("from_cluster",), traffic.from_cluster)


CLUSTER: Final[Sequence[Family[ClusterRecord]]] = (
    Plain(
        COUNTER,
        "bytes",
        "Bytes carried between clients and API servers.",
        ("cluster", "direction"),
        lambda one: _bytes(one.traffic),
    ),
    Plain(
        GAUGE,
        "connections_active",
        "Client connections open now.",
        ("cluster",),
        lambda one: known(one.traffic.active),
    ),
    Plain(
        COUNTER,
        "connections",
        "Client connections ended, by result.",
        ("cluster", "result"),
        lambda one: items(one.traffic.results),
    ),
    Timed(
        "connection_duration",
        "How long client connections lived.",
        "cluster",
        lambda one: one.traffic.connection_duration,
    ),
    Timed(
        "channel_open",
        "Time from a client's arrival to its open channel, waiting for a link included.",
        "cluster",
        lambda one: one.traffic.channel_open,
    ),
    Timed(
        "first_byte",
        "Time from a client's arrival to the first byte from its API server.",
        "cluster",
        lambda one: one.traffic.first_byte,
    ),
    Plain(
        GAUGE,
        "cluster_up",
        "1 if the cluster's probes succeed, 0 if not.",
        ("cluster",),
        lambda one: known(one.up),
    ),
    Plain(
        GAUGE,
        "cluster_listening",
        "1 if the cluster's local address is bound, 0 if not.",
        ("cluster",),
        lambda one: known(one.listening),
    ),
    Plain(COUNTER, "probes", "Probes by result.", ("cluster", "result"), lambda one: items(one.probes)),
    Timed(
        "probe_duration",
        "Time a probe took, from channel to status line.",
        "cluster",
        lambda one: one.probe_duration,
    ),
    Plain(
        GAUGE,
        "certificate_expiry_timestamp_seconds",
        "When a certificate expires, in Unix time.",
        ("cluster", "kind"),
        lambda one: items(one.certificate_expiry),
    ),
)

GATEWAY: Final[Sequence[Family[GatewayRecord]]] = (
    Plain(GAUGE, "gateway_links", "Links that are up.", ("gateway",), lambda one: known(one.links)),
    Plain(
        GAUGE,
        "gateway_links_retiring",
        "Links that were replaced, and wait for their last channels to end.",
        ("gateway",),
        lambda one: known(one.retiring),
    ),
    Plain(
        GAUGE,
        "gateway_connected",
        "1 if at least one link is up; absent while a gateway that is dialled on demand is idle.",
        ("gateway",),
        lambda one: known(None if one.is_idle else one.links > 0),
    ),
    Plain(
        GAUGE,
        "on_demand_gateways",
        "Hosts of a gateway pattern that clients use, or have used within idle_timeout.",
        ("gateway",),
        lambda one: known(one.live),
    ),
    Plain(
        COUNTER,
        "gateway_connects",
        "Dial attempts by result.",
        ("gateway", "result"),
        lambda one: items(one.connects),
    ),
    Plain(
        COUNTER,
        "gateway_reconnects",
        "Links dialled again after a loss, by the reason of the loss.",
        ("gateway", "reason"),
        lambda one: items(one.reconnects),
    ),
    Timed(
        "gateway_handshake",
        "Time from TCP connect to an authenticated link.",
        "gateway",
        lambda one: one.handshake,
    ),
    Plain(
        GAUGE,
        "gateway_rtt_seconds",
        "Last measured round trip to sshd, through the link.",
        ("gateway",),
        lambda one: known(one.rtt),
    ),
    Plain(
        GAUGE,
        "gateway_backoff_seconds",
        "Wait before the next dial attempt; 0 if none is due.",
        ("gateway",),
        lambda one: known(one.backoff),
    ),
    Plain(
        GAUGE,
        "gateway_credential_expiry_timestamp_seconds",
        "When a gateway's SSH certificate ends, in Unix time.",
        ("gateway", "kind"),
        lambda one: items(one.credential_expiry),
    ),
    Plain(
        GAUGE,
        "link_data_plane",
        "Links by data plane.",
        ("gateway", "mode"),
        lambda one: items(one.planes),
    ),
)

ENTRY: Final[Sequence[Family[EntryRecord]]] = (
    Plain(
        GAUGE,
        "entry_connections_active",
        "Client connections open now, those that have not asked for a name yet included. Those of `ssh` are "
        "channels.",
        ("entry",),
        lambda one: known(one.active),
    ),
    Plain(
        COUNTER,
        "entry_connections",
        "Client connections ended, by result.",
        ("entry", "result"),
        lambda one: items(one.results),
    ),
)


def _destination(kind: str) -> Sequence[Family[Traffic]]:
    return (
        Plain(
            COUNTER,
            f"{kind}_bytes",
            "Bytes carried between clients and targets.",
            (kind, "direction"),
            _bytes,
        ),
        Plain(
            COUNTER,
            f"{kind}_connections",
            "Client connections ended, by result.",
            (kind, "result"),
            lambda one: items(one.results),
        ),
        Timed(
            f"{kind}_channel_open",
            "Time from a client's request to its open channel, waiting for a link included.",
            kind,
            lambda one: one.channel_open,
        ),
        Timed(
            f"{kind}_first_byte",
            "Time from a client's request to the first byte from its target.",
            kind,
            lambda one: one.first_byte,
        ),
    )


ROUTE: Final = _destination("route")

SITE: Final[Sequence[Family[SiteRecord]]] = (
    Plain(
        GAUGE,
        "site_connected",
        "1 while the site has a link that can be used, and for 3 s after the last one.",
        ("site",),
        lambda one: known(one.is_connected),
    ),
    *_destination("site"),
)

DISCOVERY: Final[Sequence[Family[DiscoveryRecord]]] = (
    Plain(
        GAUGE,
        "discovery_up",
        "1 while the pods of a route are watched, 0 if the watch is broken.",
        ("route",),
        lambda one: known(one.is_watched),
    ),
    Plain(
        GAUGE,
        "discovered_pods",
        "Pods of a route that are known, running or not.",
        ("route",),
        lambda one: known(one.pods),
    ),
)

DENIED: Final[Sequence[Family[Counter[Reason]]]] = (
    Plain(
        COUNTER,
        "denied",
        "Clients turned away because of who they are. `listener` stands for the listeners of all clusters, "
        "`ssh` for the SSH server.",
        ("entry", "reason"),
        items,
    ),
)


def logins(record: LoginRecord) -> Iterator[Metric]:
    """The families of the SSH server; a daemon has only one."""
    results = CounterMetricFamily(
        "kubemux_ssh_logins", "Clients that connected to the SSH server, by result.", labels=("result",)
    )
    for reason, number in record.results.items():
        results.add_metric((reason,), number)
    yield results
    yield GaugeMetricFamily(
        "kubemux_ssh_startups",
        "Connections to the SSH server that have not logged in yet.",
        value=record.startups,
    )
