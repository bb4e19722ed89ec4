"""Decides what is up, degraded or down, for `kubemux status`, `/readyz` and sd_notify. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Final, NamedTuple

from proxy.errors import LinkDown, ListenError
from proxy.errors.reasons import Reason
from proxy.health.result import Result
from proxy.snapshots import (
    ClusterSnapshot,
    ClusterState,
    DaemonSnapshot,
    DiscoveryState,
    EntrySnapshot,
    GatewaySnapshot,
    GatewayState,
    SiteSnapshot,
)

_FAILURES: Final = frozenset(result.value for result in Result if not result.alive)
_RECOVERING: Final = (
    "its last probe was answered, `probe.threshold` of them in a row make it up; clients are served already"
)
"""The message for a cluster that is down although its last probe was answered."""
_FAILING: Final = "`probe.threshold` such probes in a row make it down"
"""The message for a cluster that is up although its last probe was not answered."""
_WHY_CLOSED: Final = frozenset({ListenError.reason, Reason.DRAINED})


class Severity(IntEnum):
    """The severity: the exit codes of a Nagios plugin."""

    WELL = 0
    DEGRADED = 1
    DOWN = 2


class Finding(NamedTuple):
    """One problem, and its reason."""

    kind: str
    name: str
    severity: Severity
    reason: str
    message: str
    hint: str


def is_connected(gateway: GatewaySnapshot | SiteSnapshot) -> bool:
    """Whether at least one link is up."""
    return bool(gateway.links)


def is_idle(one: GatewaySnapshot | ClusterSnapshot) -> bool:
    """Whether no client needs it: a gateway that is dialled on demand, or a cluster behind it."""
    if isinstance(one, ClusterSnapshot):
        return one.listening and one.state is ClusterState.IDLE
    return one.state is GatewayState.IDLE


def is_up(cluster: ClusterSnapshot) -> bool:
    """Whether clients can connect, and its probes succeed."""
    return cluster.listening and cluster.state is ClusterState.UP


def is_failing(cluster: ClusterSnapshot) -> bool:
    """Whether the last probe got no answer. The cluster is down only after several."""
    return cluster.reason in _FAILURES


def cut_off(snapshot: DaemonSnapshot) -> frozenset[str]:
    """The gateways and sites that should have a link and have none. No client can be served through them now,
    whatever the last probes found.
    """
    gateways = (one.name for one in snapshot.gateways if not (is_connected(one) or is_idle(one)))
    sites = (one.name for one in snapshot.sites if not is_connected(one))
    return frozenset((*gateways, *sites))


def why_not_up(cluster: ClusterSnapshot) -> str:
    """One or two words: why no client can connect, else why its last probe failed, else its state."""
    if not cluster.listening:
        return cluster.reason if cluster.reason in _WHY_CLOSED else "not listening"
    return cluster.reason if cluster.reason not in ("", "ok") else cluster.state


def findings(snapshot: DaemonSnapshot, lost: frozenset[str]) -> Iterator[Finding]:
    """The problems, in the order of the snapshot. `lost` is the result of `cut_off` for the whole daemon."""
    for gateway in snapshot.gateways:
        if gateway.reason and gateway.state is not GatewayState.UP:
            severity = Severity.DEGRADED if is_connected(gateway) or is_idle(gateway) else Severity.DOWN
            message = f"{gateway.message}{_still_serving(gateway)}"
            yield Finding("gateway", gateway.name, severity, gateway.reason, message, gateway.hint)
    for site in snapshot.sites:
        if not is_connected(site):
            yield Finding("site", site.name, Severity.DOWN, site.reason, site.message, site.hint)
        if site.drained:
            message = "clients that ask for names at it are refused"
            yield Finding("site", site.name, Severity.DOWN, Reason.DRAINED, message, Reason.DRAINED.remedy)
    for cluster in snapshot.clusters:
        found = _cluster(cluster, lost, is_draining=snapshot.draining)
        if found is not None:
            yield found
    for entry in snapshot.entries:
        if (entry.reason or not entry.listening) and not snapshot.draining:
            yield _entry(entry)
    for route in snapshot.routes:
        if route.drained:
            message, hint = "it takes no connections", Reason.DRAINED.remedy
            yield Finding("route", route.name, Severity.DOWN, Reason.DRAINED, message, hint)
        pods = route.discovery
        # Without a link, the finding of the gateway says why.
        if pods is not None and pods.state is DiscoveryState.BROKEN and pods.reason != LinkDown.reason:
            message = f"its pods are not watched, {pods.pods} are known from before: {pods.message}"
            yield Finding("route", route.name, Severity.DEGRADED, pods.reason, message, pods.hint)


def _cluster(cluster: ClusterSnapshot, lost: frozenset[str], *, is_draining: bool) -> Finding | None:
    severity, reason, message = Severity.DEGRADED, cluster.reason, cluster.message
    if is_up(cluster) and cluster.gateway in lost:
        reason, message = LinkDown.reason, f"no link of {cluster.gateway} is up any more"
    elif is_up(cluster) and is_failing(cluster):
        message = f"{message}; {_FAILING}"
    elif is_up(cluster) or is_idle(cluster) or (is_draining and not cluster.listening):
        return None
    else:
        is_down = cluster.state is ClusterState.DOWN
        severity = Severity.DOWN if is_down or not cluster.listening else Severity.DEGRADED
        reason = why_not_up(cluster)
        message = message or (_RECOVERING if is_down and cluster.listening else "")
    hint = "" if reason == LinkDown.reason else cluster.hint  # its gateway's finding says it
    return Finding("cluster", cluster.name, severity, reason, message, hint)


def _entry(entry: EntrySnapshot) -> Finding:
    return Finding(
        "entry", entry.name, Severity.DOWN, entry.reason or "not listening", entry.message, entry.hint
    )


def _still_serving(gateway: GatewaySnapshot) -> str:
    """The end of a failure's message: how many links still serve clients. Empty if none does."""
    up, wanted = len(gateway.links), gateway.wanted
    if not up:
        return ""
    if up < wanted:
        return f"; {up} of {wanted} links still serve{'s' if up == 1 else ''}"
    links, their = ("link goes", "its") if up == 1 else (f"{up} links go", "their")
    return f"; its {links} on, only {their} replacement failed"
