"""A snapshot as tables for a person. Pure: a snapshot, the time and the width in, something rich can print out."""

from __future__ import annotations

from typing import Final

from rich.cells import set_cell_size
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from proxy.admin.status import is_connected, is_failing, is_up, summary, why_not_up
from proxy.errors import LinkDown
from proxy.snapshots import ClusterSnapshot, ClusterState, DaemonSnapshot, GatewaySnapshot, GatewayState
from proxy.text import for_terminal

WIDE: Final = 120
"""Columns from which every column of the clusters fits."""

_LOOK: Final = {
    "up": ("●", "green"),
    "degraded": ("◐", "yellow"),
    "connecting": ("◌", "yellow"),
    "unknown": ("◌", "yellow"),
    "down": ("○", "red"),
}
_RECOVERING: Final = "its last probe was answered, `probe.threshold` of them in a row make it up; clients are served already"
"""Of a cluster that is down and has nothing to complain about."""
_FAILING: Final = "`probe.threshold` such probes in a row make it down"
"""Of a cluster that is up, and whose last probe was not answered."""
_DAY: Final = 86_400.0
_GAP: Final = 2
_SHORTEST_NAME: Final = 8


def render(snapshot: DaemonSnapshot, *, now: float, width: int) -> RenderableType:
    """Head line, gateways, clusters, and why the failing ones fail. `now` is Unix time, `width` columns."""
    parts: list[RenderableType] = [_head(snapshot), Text()]
    if snapshot.gateways:
        rows = [_gateway(gateway, now=now) for gateway in snapshot.gateways]
        headers = ["GATEWAY", "STATE", ">LINKS", ">RTT", ">CHANNELS", ">RECONNECTS", ">RETRY IN", ">CERT"]
        parts += [_table(headers, rows, width), Text()]
    if snapshot.clusters:
        wide = width >= WIDE
        headers = ["CLUSTER", "STATE", "LISTEN", *(["GATEWAY", "API SERVER"] if wide else [])]
        rows = [_cluster(cluster, now=now, wide=wide) for cluster in snapshot.clusters]
        parts.append(_table([*headers, ">PROBE", ">CONNS", ">SENT", ">RECVD", ">CERT"], rows, width))
    else:
        parts.append(_text("no clusters are configured", "yellow"))
    return Group(*parts, *_problems(snapshot))


def _head(snapshot: DaemonSnapshot) -> Text:
    line = _text(summary(snapshot), "bold yellow" if snapshot.draining else "bold")
    buffers = f"{bytes_text(snapshot.buffered_bytes)} of {bytes_text(snapshot.memory_limit)} buffered"
    more = f"kubemux {snapshot.version}, pid {snapshot.pid}, up {seconds_text(snapshot.uptime)}, {buffers}"
    return Text("\n").join([line, _text(more, "dim")])


def _gateway(gateway: GatewaySnapshot, *, now: float) -> list[Text]:
    rtts = [link.rtt for link in gateway.links if link.rtt is not None]
    return [
        _text(gateway.name, "bold"),
        _state(gateway.state),
        Text(f"{len(gateway.links)}/{gateway.wanted}{f'+{len(gateway.retiring)}' if gateway.retiring else ''}"),
        _milliseconds(min(rtts, default=None)),
        Text(str(sum(link.channels for link in (*gateway.links, *gateway.retiring)))),
        Text(str(gateway.reconnects)),
        Text("-" if gateway.retry_in is None else seconds_text(gateway.retry_in)),
        _days_left(gateway.certificate_expiry, now),
    ]


def _cluster(cluster: ClusterSnapshot, *, now: float, wide: bool) -> list[Text]:
    return [
        _text(cluster.name, "bold"),
        _state(cluster.state if cluster.listening else "down"),
        _text(cluster.listen, "" if cluster.listening else "red"),
        *([_text(cluster.gateway), _text(cluster.api_server)] if wide else []),
        _milliseconds(None if cluster.reason == LinkDown.reason else cluster.probe_seconds),  # nothing was probed
        Text(str(cluster.connections)),
        Text(bytes_text(cluster.bytes_to_cluster)),
        Text(bytes_text(cluster.bytes_from_cluster)),
        _days_left(cluster.certificate_expiry, now),
    ]


def _problems(snapshot: DaemonSnapshot) -> list[RenderableType]:
    """Each cause once, with everything that fails for it: a lost gateway takes all its clusters along."""
    causes: dict[tuple[str, str, str, str, str], list[str]] = {}
    for gateway in snapshot.gateways:
        if gateway.reason and gateway.state is not GatewayState.UP:
            colour = "yellow" if is_connected(gateway) else "red"
            message = f"{gateway.message}{_what_goes_on(gateway)}"
            causes.setdefault(("gateway", colour, gateway.reason, message, gateway.hint), []).append(gateway.name)
    for cluster in snapshot.clusters:
        if is_up(cluster):
            if not is_failing(cluster):
                continue
            colour, reason, message = "yellow", cluster.reason, f"{cluster.message}; {_FAILING}"
        elif cluster.listening or not snapshot.draining:
            colour = _LOOK[cluster.state][1] if cluster.listening else "red"
            reason = why_not_up(cluster)
            message = cluster.message or (_RECOVERING if cluster.listening and cluster.state is ClusterState.DOWN else "")
        else:
            continue
        hint = "" if reason == LinkDown.reason else cluster.hint  # its gateway's line is above
        causes.setdefault(("cluster", colour, reason, message, hint), []).append(cluster.name)
    shown: list[RenderableType] = []
    for (kind, colour, reason, message, hint), names in causes.items():
        subject = f"{kind}{'s' if len(names) > 1 else ''} {', '.join(names)}"
        shown += [Text(), Text.assemble(_text(subject, colour), _text(f": {reason}{f': {message}' if message else ''}"))]
        if hint:
            shown.append(Padding(_text(f"hint: {hint}", "cyan"), (0, 0, 0, 2), expand=False))
    return shown


def _what_goes_on(gateway: GatewaySnapshot) -> str:
    """What the message of a failure does not say: clients are served all the same. Empty if no link is up."""
    up, wanted = len(gateway.links), gateway.wanted
    if not up:
        return ""
    if up < wanted:
        return f"; {up} of {wanted} links still serve{'s' if up == 1 else ''}"
    links, their = ("link goes", "its") if up == 1 else (f"{up} links go", "their")
    return f"; its {links} on, only {their} replacement failed"


def _table(headers: list[str], rows: list[list[Text]], width: int) -> Table:
    """Columns side by side (`>` ones right-justified); the first, the names, yields where `width` does not hold all of them."""
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="dim")
    taken = 0
    for index, header in enumerate(headers):
        table.add_column(header.lstrip(">"), justify="right" if header[0] == ">" else "left", no_wrap=True)
        if index:
            taken += _GAP + max(len(header.lstrip(">")), *(row[index].cell_len for row in rows))
    for name, *rest in rows:
        table.add_row(_shortened(name, max(width - taken, _SHORTEST_NAME)), *rest)
    return table


def _shortened(name: Text, room: int) -> Text:
    """`arn:aws…prod-eu`: the end of a context's name tells more than its middle."""
    if name.cell_len <= room:
        return name
    head = room // 3
    start, end = set_cell_size(name.plain, head), set_cell_size(name.plain[::-1], room - 1 - head)[::-1]
    return Text(f"{start}…{end}", name.style)


def _state(state: str) -> Text:
    symbol, colour = _LOOK[state]
    return Text(f"{symbol} {state}", colour)


def _text(value: str, style: str = "") -> Text:
    return Text(for_terminal(value), style)


def _milliseconds(seconds: float | None) -> Text:
    return Text("-" if seconds is None else f"{seconds * 1000:.{0 if seconds >= 0.01 else 1}f}ms")


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
