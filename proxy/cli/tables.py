"""A snapshot as tables for a person. Pure: a snapshot, the time and the width in, something rich can print out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from proxy.admin.status import is_connected, is_up, summary, why_not_up
from proxy.cli import printable
from proxy.snapshots import ClusterSnapshot, DaemonSnapshot, GatewaySnapshot

WIDE: Final = 120
"""Columns from which every column of the clusters fits."""

_LOOK: Final = {
    "up": ("●", "green"),
    "degraded": ("◐", "yellow"),
    "connecting": ("◌", "yellow"),
    "unknown": ("◌", "yellow"),
    "down": ("○", "red"),
}
_DAY: Final = 86_400.0


def render(snapshot: DaemonSnapshot, *, now: float, width: int) -> RenderableType:
    """Head line, gateways, clusters, and why the failing ones fail. `now` is Unix time, `width` columns."""
    parts: list[RenderableType] = [_head(snapshot), Text()]
    if snapshot.gateways:
        parts += [_gateways(snapshot.gateways), Text()]
    if snapshot.clusters:
        parts.append(_clusters(snapshot.clusters, now=now, wide=width >= WIDE))
    else:
        parts.append(_text("no clusters are configured", "yellow"))
    return Group(*parts, *_problems(snapshot))


def _head(snapshot: DaemonSnapshot) -> Text:
    line = _text(summary(snapshot), "bold yellow" if snapshot.draining else "bold")
    buffers = f"{bytes_text(snapshot.buffered_bytes)} of {bytes_text(snapshot.memory_limit)} buffered"
    more = f"kubemux {snapshot.version}, pid {snapshot.pid}, up {seconds_text(snapshot.uptime)}, {buffers}"
    return Text("\n").join([line, _text(more, "dim")])


def _gateways(gateways: Iterable[GatewaySnapshot]) -> Table:
    table = _table("GATEWAY")
    for header in ("LINKS", "RTT", "CHANNELS", "RECONNECTS", "RETRY IN"):
        table.add_column(header, justify="right", no_wrap=True)
    for gateway in gateways:
        rtts = [link.rtt for link in gateway.links if link.rtt is not None]
        table.add_row(
            _text(gateway.name),
            _state(gateway.state),
            f"{len(gateway.links)}/{gateway.wanted}",
            _milliseconds(min(rtts, default=None)),
            str(sum(link.channels for link in gateway.links)),
            str(gateway.reconnects),
            "-" if gateway.retry_in is None else seconds_text(gateway.retry_in),
        )
    return table


def _clusters(clusters: Iterable[ClusterSnapshot], *, now: float, wide: bool) -> Table:
    table = _table("CLUSTER")
    table.add_column("LISTEN", no_wrap=True)
    if wide:
        table.add_column("GATEWAY", no_wrap=True)
        table.add_column("API SERVER", no_wrap=True)
    for header in ("PROBE", "CONNS", "SENT", "RECEIVED", "CERT"):
        table.add_column(header, justify="right", no_wrap=True)
    for cluster in clusters:
        table.add_row(
            _text(cluster.name),
            _state(cluster.state if cluster.listening else "down"),
            _text(cluster.listen, "" if cluster.listening else "red"),
            *([_text(cluster.gateway), _text(cluster.api_server)] if wide else []),
            _milliseconds(cluster.probe_seconds),
            str(cluster.connections),
            bytes_text(cluster.bytes_to_cluster),
            bytes_text(cluster.bytes_from_cluster),
            _days_left(cluster.certificate_expiry, now),
        )
    return table


def _problems(snapshot: DaemonSnapshot) -> list[RenderableType]:
    """Each cause once, with everything that fails for it: a lost gateway takes all its clusters along."""
    causes: dict[tuple[str, str, str, str], list[str]] = {}
    for gateway in snapshot.gateways:
        if gateway.reason and len(gateway.links) < gateway.wanted:
            colour = "yellow" if is_connected(gateway) else "red"
            causes.setdefault((colour, gateway.reason, gateway.message, gateway.hint), []).append(f"gateway {gateway.name}")
    for cluster in snapshot.clusters:
        if not is_up(cluster):
            key = (_LOOK[cluster.state][1], why_not_up(cluster), cluster.message, cluster.hint)
            causes.setdefault(key, []).append(f"cluster {cluster.name}")
    shown: list[RenderableType] = []
    for (colour, reason, message, hint), names in causes.items():
        what = Text.assemble(_text(", ".join(names), colour), _text(f": {reason}{f': {message}' if message else ''}"))
        shown += [Text(), what]
        if hint:
            shown.append(Padding(_text(f"hint: {hint}", "cyan"), (0, 0, 0, 2)))
    return shown


def _table(subject: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(subject, no_wrap=True, overflow="ellipsis", min_width=8, style="bold")
    table.add_column("STATE", no_wrap=True)
    return table


def _state(state: str) -> Text:
    symbol, colour = _LOOK[state]
    return Text(f"{symbol} {state}", colour)


def _text(value: str, style: str = "") -> Text:
    return Text(printable(value), style)


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.{0 if seconds >= 0.01 else 1}f}ms"


def _days_left(expiry: float | None, now: float) -> Text:
    if expiry is None:
        return Text("-")
    days = (expiry - now) / _DAY
    if days <= 0:
        return Text("expired", "bold red")
    return Text(f"{days:.0f}d", "red" if days < 14 else "yellow" if days < 30 else "")


def bytes_text(count: float) -> str:
    """`512B`, `1.2K`, `45M`, `1.1G`: at most five columns, powers of 1024."""
    for unit in "BKMGT":
        if count < 999.5 or unit == "T":
            break
        count /= 1024
    return f"{count:.1f}{unit}" if unit != "B" and count < 9.95 else f"{count:.0f}{unit}"


def seconds_text(seconds: float) -> str:
    """`0.4s`, `42s`, `3m 20s`, `5h 2m`, `12d 3h`: the two largest units."""
    if seconds < 60:
        return f"{seconds:.{1 if seconds < 10 else 0}f}s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours}h"
    return f"{hours}h {minutes}m" if hours else f"{minutes}m {rest}s"
