"""Turns a snapshot into the JSON of `/status`, the text of `/readyz` and the status line of sd_notify. Pure.

The document is stable for scripts: new releases may add fields. If a field is removed or changes its meaning,
`version` is increased.

    {"version": 1,
     "daemon":   {"version": "0.1.0", "pid": 1, "uptime": 3.5, "ready": true, "draining": false,
                  "config_path": "...", "connections": 12, "buffered_bytes": 0,
                  "memory_limit": 268435456},
     "gateways": [{"name": "eu-edge", "state": "up", "wanted": 2, "reconnects": 0, "retry_in": null,
                   "links": [{"server": "...:22", "age": 60.0, "channels": 7,
                              "data_plane": "asyncssh", "cipher": "...", "rtt": 0.02}],
                   "retiring": [...], "reason": "", "message": "", "hint": "",
                   "certificate_expiry": null, "hosts": null}],
     "clusters": [{"name": "prod-eu", "gateway": "eu-edge", "listen": "127.0.0.1:16443",
                   "listening": true, "state": "up", "reason": "ok", "message": "", "hint": "",
                   "probe_seconds": 0.03, "api_server": "10.0.0.10:6443",
                   "connections": 12, "connections_total": 345, "bytes_to_cluster": 1,
                   "bytes_from_cluster": 2, "certificate_expiry": 1767225600.0}],
     "entries":  [{"name": "proxy", "listen": "127.0.0.1:3128", "listening": true, "reason": "",
                   "message": "", "hint": "", "connections": 3, "connections_total": 45}],
     "routes":   [{"name": "nodes", "match": ["*.eu.internal:22"], "gateway": "eu-edge",
                   "connections": 2, "connections_total": 30, "bytes_to_target": 1,
                   "bytes_from_target": 2,
                   "discovery": {"cluster": "prod-eu", "state": "watching", "pods": 7, "reason": "",
                                 "message": "", "hint": ""},
                   "drained": false}],
     "sites":    [{"name": "factory-7", "state": "up", "most": 2, "connected": 60.0, "away": null,
                   "links": [{...as of a gateway..., "address": "192.0.2.7:50022",
                              "key": "SHA256:...", "forwards": ["factory-7:1080"]}],
                   "retiring": [...], "callers": [...], "reconnects": 0,
                   "reason": "", "message": "", "hint": "",
                   "refused": {"reason": "forward_refused", "message": "...", "age": 90.0},
                   "connections": 1, "connections_total": 2, "bytes_to_site": 1,
                   "bytes_from_site": 2, "drained": false}],
     "users":    [{"name": "ops", "identity": "ssh-user:ops", "most": 100,
                   "logins": [{"address": "192.0.2.9:50022", "age": 60.0, "key": "SHA256:...",
                               "certificate": "alice (serial 7)", "channels": 2,
                               "open": ["node-a:22"]}]}]}

A cluster without `listen`, which clients reach only by name, has "" in that field, and is `listening` until
it is drained. A route without `discover` has null for `discovery`. A site is `up` or `down`, and `connecting`
until it has connected once. `refused` is null if nothing was refused.

Times are in seconds, sizes in bytes, `certificate_expiry` is Unix time. null means "not known (yet)". States
are those of `GatewayState`, `ClusterState` and `DiscoveryState`, reasons those of `proxy.errors` and of
probes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from enum import StrEnum
from typing import Final

from proxy.admin.condition import cut_off, is_connected, is_idle, is_up, why_not_up
from proxy.errors import LinkDown
from proxy.snapshots import ClusterSnapshot, DaemonSnapshot, GatewaySnapshot

SCHEMA_VERSION: Final = 1

_LATER: Final = ("entries", "routes", "sites", "users")
"""Sections that a daemon of an earlier release does not have."""
_SECTIONS: Final = ("gateways", "clusters", *_LATER)
"""The sections of the document besides `daemon`."""


def to_document(snapshot: DaemonSnapshot) -> dict[str, object]:
    """The document of `/status`, ready for `json.dumps`."""
    daemon = {item.name: _plain(getattr(snapshot, item.name)) for item in fields(snapshot)}
    sections = {name: daemon.pop(name) for name in _SECTIONS}
    return {"version": SCHEMA_VERSION, "daemon": daemon, **sections}


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value.value if isinstance(value, StrEnum) else value


def from_document(document: object) -> DaemonSnapshot:
    """The snapshot in a parsed document. Raises ValueError if it is no document of this version."""
    from proxy.config.reading import read  # here, because it imports pydantic, which the daemon must not

    match document:
        case {"version": 1, "daemon": dict() as daemon, "gateways": gateways, "clusters": clusters, **others}:
            later = {name: others.get(name, []) for name in _LATER}
            return read(DaemonSnapshot, {**daemon, "gateways": gateways, "clusters": clusters, **later})
    raise ValueError(f"not a status document of version {SCHEMA_VERSION}")


def is_ready(snapshot: DaemonSnapshot) -> bool:
    """Whether `/readyz` is ok: listeners are bound, and the daemon is not stopping. Clusters may be down."""
    return snapshot.ready and not snapshot.draining


def readiness(snapshot: DaemonSnapshot) -> str:
    """The text of `/readyz?verbose`: a line for each check, as kube-apiserver writes it, then the result."""
    return (
        "\n".join([*_checks(snapshot), f"readyz check {'passed' if is_ready(snapshot) else 'failed'}"]) + "\n"
    )


def _checks(snapshot: DaemonSnapshot) -> Iterator[str]:
    if snapshot.draining:
        yield "[-]daemon: draining"
    yield "[+]listeners ok" if snapshot.ready else "[-]listeners: not all are bound"
    for gateway in snapshot.gateways:
        if is_connected(gateway):
            yield f"[+]gateway {gateway.name} ok"
        elif is_idle(gateway):
            yield f"[+]gateway {gateway.name} idle"
        else:
            yield f"[-]gateway {gateway.name}: {gateway.reason or gateway.state}"
    for site in snapshot.sites:
        if is_connected(site):
            yield f"[+]site {site.name} ok"
        else:
            yield f"[-]site {site.name}: {site.reason or site.state}"
    lost = cut_off(snapshot)
    for cluster in snapshot.clusters:
        if is_up(cluster) and cluster.gateway in lost:
            yield f"[-]cluster {cluster.name}: {LinkDown.reason}"
        elif is_up(cluster):
            yield f"[+]cluster {cluster.name} ok"
        elif is_idle(cluster):
            yield f"[+]cluster {cluster.name} idle"
        else:
            yield f"[-]cluster {cluster.name}: {why_not_up(cluster)}"
    for entry in snapshot.entries:
        if entry.listening:
            yield f"[+]entry {entry.name} ok"
        else:
            yield f"[-]entry {entry.name}: {entry.reason or 'not listening'}"


def summary(snapshot: DaemonSnapshot) -> str:
    """One line for `systemctl status`: `5/7 clusters up, 2/2 gateways connected, 12 connections`.

    Idle clusters and gateways are counted separately: `1/1 clusters up (1 idle)`.
    """
    lost = cut_off(snapshot)
    up = sum(is_up(cluster) and cluster.gateway not in lost for cluster in snapshot.clusters)
    connected = sum(map(is_connected, snapshot.gateways))
    plural = "" if snapshot.connections == 1 else "s"
    sites = f"{sum(map(is_connected, snapshot.sites))}/{len(snapshot.sites)} sites connected, "
    line = (
        f"{up}/{_of(snapshot.clusters, 'clusters up')}, {connected}/"
        f"{_of(snapshot.gateways, 'gateways connected')}, {sites if snapshot.sites else ''}"
        f"{snapshot.connections} connection{plural}"
    )
    return f"draining: {line}" if snapshot.draining else line


def _of(all_: Sequence[GatewaySnapshot] | Sequence[ClusterSnapshot], what: str) -> str:
    idle = sum(map(is_idle, all_))
    return f"{len(all_) - idle} {what}{f' ({idle} idle)' if idle else ''}"
