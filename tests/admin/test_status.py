"""The document of /status, the text of /readyz, the status line."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.admin.status import from_document, is_ready, readiness, summary, to_document
from proxy.snapshots import ClusterState, DaemonSnapshot, GatewayState
from tests.admin.scripted import (
    AWAY,
    DAEMON,
    EU_EDGE,
    LOGIN,
    NODES,
    OPS,
    PROD_EU,
    PROD_US,
    PROXY,
    SITE,
    UNBOUND,
    US_WEST,
)

numbers = st.floats(min_value=0, max_value=1e12)
st.register_type_strategy(float, numbers)  # JSON has no NaN, and no time is negative


@given(st.builds(DaemonSnapshot))
def test_every_snapshot_is_the_same_after_json(snapshot: DaemonSnapshot) -> None:
    assert from_document(json.loads(json.dumps(to_document(snapshot)))) == snapshot


def test_the_document_has_the_documented_fields() -> None:
    snapshot = replace(
        DAEMON,
        gateways=(EU_EDGE,),
        clusters=(PROD_EU,),
        entries=(PROXY,),
        routes=(NODES,),
        sites=(SITE,),
        users=(replace(OPS, logins=(LOGIN,)),),
    )
    document = json.loads(json.dumps(to_document(snapshot)))
    link = {
        "server": "bastion.eu:22",
        "age": 60.0,
        "channels": 7,
        "data_plane": "asyncssh",
        "cipher": "aes256-gcm",
        "rtt": 0.0213,
    }
    assert document == {
        "version": 1,
        "daemon": {
            "version": "0.1.0",
            "pid": 123,
            "uptime": 7384.0,
            "ready": True,
            "draining": False,
            "config_path": "/etc/kubemux/config.yaml",
            "connections": 12,
            "buffered_bytes": 123_456,
            "memory_limit": 268_435_456,
        },
        "gateways": [
            {
                "name": "eu-edge",
                "state": "up",
                "links": [link, link],
                "wanted": 2,
                "reconnects": 0,
                "retry_in": None,
                "reason": "",
                "message": "",
                "hint": "",
                "retiring": [],
                "certificate_expiry": None,
                "hosts": None,
            }
        ],
        "clusters": [
            {
                "name": "prod-eu",
                "gateway": "eu-edge",
                "listen": "127.0.0.1:16443",
                "listening": True,
                "state": "up",
                "reason": "ok",
                "message": "",
                "hint": "",
                "probe_seconds": 0.0312,
                "api_server": "10.0.0.10:6443",
                "connections": 12,
                "connections_total": 345,
                "bytes_to_cluster": 12_345_678,
                "bytes_from_cluster": 9_123_456_789,
                "certificate_expiry": 1_707_214_400.0,
            }
        ],
        "entries": [
            {
                "name": "proxy",
                "listen": "127.0.0.1:3128",
                "listening": True,
                "reason": "",
                "message": "",
                "hint": "",
                "connections": 3,
                "connections_total": 45,
            }
        ],
        "routes": [
            {
                "name": "nodes",
                "match": ["*.eu.internal:22"],
                "gateway": "eu-edge",
                "connections": 2,
                "connections_total": 30,
                "bytes_to_target": 4096,
                "bytes_from_target": 7_301_444_403,
                "discovery": None,
                "drained": False,
            }
        ],
        "sites": [
            {
                "name": "factory-7",
                "state": "up",
                "links": [
                    {
                        "server": "site factory-7 at 192.0.2.7:50022",
                        "age": 60.0,
                        "channels": 3,
                        "data_plane": "native",
                        "cipher": "aes256-gcm",
                        "rtt": 0.0503,
                        "address": "192.0.2.7:50022",
                        "key": "SHA256:abc",
                        "forwards": ["factory-7:1080"],
                    }
                ],
                "retiring": [],
                "callers": [],
                "most": 2,
                "connected": 3600.0,
                "away": None,
                "reconnects": 1,
                "reason": "",
                "message": "",
                "hint": "",
                "refused": {
                    "reason": "forward_refused",
                    "message": "-R Kube:6443 has capitals",
                    "age": 90.0,
                },
                "connections": 2,
                "connections_total": 9,
                "bytes_to_site": 1,
                "bytes_from_site": 2,
                "drained": False,
            }
        ],
        "users": [
            {
                "name": "ops",
                "identity": "ssh-user:ops",
                "most": 100,
                "logins": [
                    {
                        "address": "192.0.2.9:50022",
                        "age": 60.0,
                        "key": "SHA256:def",
                        "certificate": "alice (serial 7)",
                        "channels": 2,
                        "open": ["node-a:22", "prod-eu:443"],
                    }
                ],
            }
        ],
    }


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ({**to_document(DAEMON), "version": 2}, "version 1"),
        ({**to_document(DAEMON), "clusters": [{"name": "x"}]}, r"clusters\[0\]"),
        ([], "version 1"),
        ("ok", "version 1"),
    ],
)
def test_a_document_of_another_version_is_refused(document: object, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        from_document(document)


def test_readiness_lists_every_check_and_does_not_depend_on_clusters() -> None:
    degraded = replace(EU_EDGE, links=EU_EDGE.links[:1])
    unbound = replace(PROD_EU, name="unbound", listening=False, reason="listen_failed")
    drained = replace(PROD_EU, name="drained", listening=False)
    recovering = replace(PROD_US, name="recovering", reason="ok")
    new = replace(PROD_EU, name="new", state=ClusterState.UNKNOWN, reason="")
    by_name = replace(PROD_EU, name="by-name", listen="")
    drained_name = replace(by_name, name="drained-name", listening=False, reason="drained")
    snapshot = replace(
        DAEMON,
        gateways=(degraded, *DAEMON.gateways[1:]),
        clusters=(PROD_EU, PROD_US, unbound, drained, recovering, new, by_name, drained_name),
        entries=(PROXY, UNBOUND),
        sites=(SITE, replace(AWAY, name="edge")),
    )
    assert is_ready(snapshot)
    assert readiness(snapshot).splitlines() == [
        "[+]listeners ok",
        "[+]gateway eu-edge ok",
        "[-]gateway us-west: auth_failed",
        "[+]site factory-7 ok",
        "[-]site edge: keepalive_timeout",
        "[+]cluster prod-eu ok",
        f"[-]cluster {PROD_US.name}: link_down",
        "[-]cluster unbound: listen_failed",
        "[-]cluster drained: not listening",
        "[-]cluster recovering: down",
        "[-]cluster new: unknown",
        "[+]cluster by-name ok",
        "[-]cluster drained-name: drained",
        "[+]entry proxy ok",
        "[-]entry egress: listen_failed",
        "readyz check passed",
    ]


@pytest.mark.parametrize(
    ("snapshot", "check"),
    [
        (replace(DAEMON, ready=False), "[-]listeners: not all are bound"),
        (replace(DAEMON, draining=True), "[-]daemon: draining"),
    ],
)
def test_unbound_listeners_and_draining_make_the_daemon_unready(snapshot: DaemonSnapshot, check: str) -> None:
    assert not is_ready(snapshot)
    lines = readiness(snapshot).splitlines()
    assert check in lines
    assert lines[-1] == "readyz check failed"


def test_an_idle_gateway_is_neither_up_nor_down() -> None:
    idle = replace(US_WEST, state=GatewayState.IDLE, retry_in=None, reason="")
    asleep = replace(PROD_US, state=ClusterState.IDLE, reason="")
    unbound = replace(asleep, name="unbound", listening=False, reason="listen_failed")
    snapshot = replace(DAEMON, gateways=(EU_EDGE, idle), clusters=(PROD_EU, asleep, unbound))
    assert readiness(snapshot).splitlines() == [
        "[+]listeners ok",
        "[+]gateway eu-edge ok",
        "[+]gateway us-west idle",
        "[+]cluster prod-eu ok",
        f"[+]cluster {asleep.name} idle",
        "[-]cluster unbound: listen_failed",
        "readyz check passed",
    ]
    assert summary(snapshot).startswith("1/2 clusters up (1 idle), 1/1 gateways connected (1 idle), ")


def test_the_summary_counts_clusters_gateways_sites_and_connections() -> None:
    assert summary(DAEMON) == "1/3 clusters up, 1/2 gateways connected, 12 connections"
    assert summary(replace(DAEMON, draining=True, connections=1)).startswith("draining: 1/3 clusters up")
    assert summary(replace(DAEMON, connections=1)).endswith(" 1 connection")
    with_sites = summary(replace(DAEMON, sites=(SITE, AWAY)))
    assert with_sites == "1/3 clusters up, 1/2 gateways connected, 1/2 sites connected, 12 connections"
