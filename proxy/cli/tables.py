"""Shows a snapshot as tables for people.

Pure: it takes a snapshot, the time and the width, and returns what rich can print.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence, Sized
from dataclasses import replace
from typing import Final

from rich.cells import set_cell_size
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.segment import SegmentLines
from rich.table import Table
from rich.text import Text

from proxy.admin.status import cut_off, is_connected, is_failing, is_idle, is_up, summary, why_not_up
from proxy.config.values import format_size
from proxy.errors import LinkDown, UnknownName
from proxy.runtime.text import for_terminal
from proxy.snapshots import ClusterSnapshot, ClusterState, DaemonSnapshot, GatewaySnapshot, GatewayState

WIDE: Final = 120
"""The width at which all columns of the clusters are shown."""

_LOOK: Final = {
    "up": ("●", "green"),
    "idle": ("○", "green"),
    "up?": ("◐", "yellow"),
    "degraded": ("◐", "yellow"),
    "connecting": ("◌", "yellow"),
    "unknown": ("◌", "yellow"),
    "down": ("○", "red"),
}
_RANK: Final = {state: ("red", "yellow", "green").index(colour) for state, (_, colour) in _LOOK.items()}
"""For sorting: what is broken comes first."""
_RECOVERING: Final = (
    "its last probe was answered, `probe.threshold` of them in a row make it up; clients are served already"
)
"""Shown for a cluster that is down although its last probe was answered."""
_FAILING: Final = "`probe.threshold` such probes in a row make it down"
"""Shown for a cluster that is up although its last probe was not answered."""
LISTED: Final = 8
"""How many names are listed for one cause if the height is limited."""
_DAY: Final = 86_400.0
_GAP: Final = 2
_SHORTEST_NAME: Final = 8
_FEWEST_COLUMNS: Final = 2
"""The name and the state are always shown."""


def render(
    snapshot: DaemonSnapshot,
    *,
    now: float,
    width: int,
    height: int | None = None,
    names: Collection[str] = (),
) -> RenderableType:
    """The head line, the gateways, the clusters, and the causes of failures. What is broken comes first.

    `now` is Unix time; `width` and `height` are those of the terminal. If `height` is too small, gateways and
    clusters that are well are left out first. With `names`, only the gateways and clusters that `chosen`
    returns are shown. Raises UnknownName.
    """
    shown = chosen(snapshot, names)
    lost = cut_off(snapshot)
    gateways = sorted(shown.gateways, key=lambda gateway: _RANK[gateway.state])
    clusters = sorted(shown.clusters, key=lambda cluster: _RANK[_condition(cluster, lost)])
    wide = width >= WIDE
    headers = ["GATEWAY", "STATE", ">LINKS", ">RTT", ">CHANNELS", ">RECONNECTS", ">RETRY IN", ">CERT"]
    first = [_gateway(gateway, now=now) for gateway in gateways]
    where = ["LISTEN", "GATEWAY", "API SERVER"] if wide else ["LISTEN"]
    more = ["CLUSTER", "STATE", *where, ">PROBE", ">CONNS", ">SENT", ">RECVD", ">CERT"]
    second = [_cluster(cluster, lost, now=now, wide=wide) for cluster in clusters]
    listed = None if height is None else LISTED
    problems = _problems(replace(shown, gateways=tuple(gateways), clusters=tuple(clusters)), lost, listed)
    if not snapshot.clusters:
        problems.insert(0, _text("no clusters are configured", "yellow"))
    head = _head(snapshot)
    if height is None:
        return Group(head, *_table(headers, first, width), *_table(more, second, width), *problems)
    lines = Console(width=width).render_lines(Group(*problems), pad=False) if problems else []
    rooms = fair_shares(height - 2, [_lines(first), _lines(second), len(lines)])
    return Group(
        head,
        *_table(headers, first, width, rooms[0]),
        *_table(more, second, width, rooms[1]),
        SegmentLines(lines[: rooms[2]], new_lines=True),
    )


def chosen(snapshot: DaemonSnapshot, names: Collection[str]) -> DaemonSnapshot:
    """The gateways and clusters with these names, the clusters of these gateways, the gateways of these
    clusters.

    Without names, all. Raises UnknownName.
    """
    if not names:
        return snapshot
    known = {gateway.name for gateway in snapshot.gateways} | {cluster.name for cluster in snapshot.clusters}
    for name in names:
        if name not in known:
            raise UnknownName.among("gateway or cluster", name, known)
    clusters = tuple(one for one in snapshot.clusters if one.name in names or one.gateway in names)
    theirs = {one.gateway for one in clusters if one.name in names}
    gateways = tuple(one for one in snapshot.gateways if one.name in names or one.name in theirs)
    return replace(snapshot, gateways=gateways, clusters=clusters)


def fair_shares(room: int, wanted: Sequence[int]) -> list[int]:
    """Divide `room` lines into parts. No part gets more than it wants; small wishes are fulfilled first."""
    shares = [0] * len(wanted)
    left = max(room, 0)
    for done, index in enumerate(sorted(range(len(wanted)), key=wanted.__getitem__)):
        shares[index] = min(wanted[index], left // (len(wanted) - done))
        left -= shares[index]
    return shares


def _lines(rows: Sized) -> int:
    """How many lines a table takes: a blank line, the headers, the rows."""
    return len(rows) + 2 if rows else 0


def _condition(cluster: ClusterSnapshot, lost: Collection[str]) -> str:
    """The word in the table: `up?` where the last probes were answered and something
    speaks against it since.
    """
    if not cluster.listening:
        return "down"
    return "up?" if is_up(cluster) and (is_failing(cluster) or cluster.gateway in lost) else cluster.state


def _head(snapshot: DaemonSnapshot) -> Text:
    line = _text(summary(snapshot), "bold yellow" if snapshot.draining else "bold")
    buffers = f"{bytes_text(snapshot.buffered_bytes)} of {format_size(snapshot.memory_limit)} buffered"
    more = f"kubemux {snapshot.version}, pid {snapshot.pid}, up {seconds_text(snapshot.uptime)}, {buffers}"
    return Text("\n").join([line, _text(more, "dim")])


def _gateway(gateway: GatewaySnapshot, *, now: float) -> list[Text]:
    rtts = [link.rtt for link in gateway.links if link.rtt is not None]
    return [
        _text(gateway.name, "bold"),
        _state(gateway.state),
        Text(
            f"{len(gateway.links)}/{gateway.wanted}{f'+{len(gateway.retiring)}' if gateway.retiring else ''}"
        ),
        _milliseconds(min(rtts, default=None)),
        Text(str(sum(link.channels for link in (*gateway.links, *gateway.retiring)))),
        Text(str(gateway.reconnects)),
        Text("-" if gateway.retry_in is None else seconds_text(gateway.retry_in)),
        _days_left(gateway.certificate_expiry, now),
    ]


def _cluster(cluster: ClusterSnapshot, lost: Collection[str], *, now: float, wide: bool) -> list[Text]:
    return [
        _text(cluster.name, "bold"),
        _state(_condition(cluster, lost)),
        _text(cluster.listen, "" if cluster.listening else "red"),
        *([_text(cluster.gateway), _text(cluster.api_server)] if wide else []),
        # Without a link nothing was sent, so there is no time.
        _milliseconds(None if cluster.reason == LinkDown.reason else cluster.probe_seconds),
        Text(str(cluster.connections)),
        Text(bytes_text(cluster.bytes_to_cluster)),
        Text(bytes_text(cluster.bytes_from_cluster)),
        _days_left(cluster.certificate_expiry, now),
    ]


def _problems(snapshot: DaemonSnapshot, lost: Collection[str], listed: int | None) -> list[RenderableType]:
    """Each cause of failures once, with the names of the gateways or clusters that fail because of it.

    `listed`: how many names are shown for a cause; None for all.
    """
    causes: dict[tuple[str, str, str, str, str], list[str]] = {}
    for gateway in snapshot.gateways:
        if gateway.reason and gateway.state is not GatewayState.UP:
            colour = "yellow" if is_connected(gateway) or is_idle(gateway) else "red"
            message = f"{gateway.message}{_still_serving(gateway)}"
            causes.setdefault(("gateway", colour, gateway.reason, message, gateway.hint), []).append(
                gateway.name
            )
    for cluster in snapshot.clusters:
        if is_up(cluster) and cluster.gateway in lost:
            colour, message = "yellow", f"no link of {cluster.gateway} is up any more"
            reason: str = LinkDown.reason
        elif is_up(cluster):
            if not is_failing(cluster):
                continue
            colour, reason, message = "yellow", cluster.reason, f"{cluster.message}; {_FAILING}"
        elif is_idle(cluster):
            continue
        elif cluster.listening or not snapshot.draining:
            colour = _LOOK[cluster.state][1] if cluster.listening else "red"
            reason = why_not_up(cluster)
            message = cluster.message or (
                _RECOVERING if cluster.listening and cluster.state is ClusterState.DOWN else ""
            )
        else:
            continue
        hint = "" if reason == LinkDown.reason else cluster.hint  # its gateway's line is above
        causes.setdefault(("cluster", colour, reason, message, hint), []).append(cluster.name)
    shown: list[RenderableType] = []
    for (kind, colour, reason, message, hint), names in causes.items():
        more = f" and {len(names) - listed} more" if listed is not None and len(names) > listed else ""
        subject = f"{kind}{'s' if len(names) > 1 else ''} {', '.join(names[:listed])}{more}"
        shown += [
            Text(),
            Text.assemble(_text(subject, colour), _text(f": {reason}{f': {message}' if message else ''}")),
        ]
        if hint:
            shown.append(Padding(_text(f"hint: {hint}", "cyan"), (0, 0, 0, 2), expand=False))
    return shown


def _still_serving(gateway: GatewaySnapshot) -> str:
    """The end of a failure's message: how many links still serve clients. Empty if none does."""
    up, wanted = len(gateway.links), gateway.wanted
    if not up:
        return ""
    if up < wanted:
        return f"; {up} of {wanted} links still serve{'s' if up == 1 else ''}"
    links, their = ("link goes", "its") if up == 1 else (f"{up} links go", "their")
    return f"; its {links} on, only {their} replacement failed"


def _table(
    headers: list[str], rows: list[list[Text]], width: int, room: int | None = None
) -> list[RenderableType]:
    """A blank line, and columns side by side (`>` ones right-justified); nothing if there are no rows.

    If `width` is too small, the names in the first column are shortened, then columns are left out from the
    right. Of rows that do not fit into `room` lines, only the number is shown.
    """
    if not rows or room == 0:
        return []
    takes = [
        _GAP + max(len(header.lstrip(">")), *(row[index].cell_len for row in rows))
        for index, header in enumerate(headers)
    ]
    takes[0] = min(takes[0] - _GAP, _SHORTEST_NAME)
    kept = len(headers)
    while kept > _FEWEST_COLUMNS and sum(takes[:kept]) > width:
        kept -= 1
    fit = len(rows) if room is None or room >= _lines(rows) else max(room - 3, 0)
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="dim")
    for header in headers[:kept]:
        table.add_column(header.lstrip(">"), justify="right" if header[0] == ">" else "left", no_wrap=True)
    for name, *rest in rows[:fit]:
        table.add_row(_shortened(name, max(width - sum(takes[1:kept]), _SHORTEST_NAME)), *rest[: kept - 1])
    if fit == len(rows):
        return [Text(), table]
    left = rows[fit:]
    up, idle = (sum(row[1].plain.endswith(word) for row in left) for word in (" up", " idle"))
    counted = _text(
        f"{len(left)} more {headers[0].lower()}{'s' * (len(left) != 1)}, {up} of them up"
        f"{f', {idle} idle' if idle else ''}",
        "dim" if up + idle == len(left) else "yellow",
    )
    if fit:
        return [Text(), table, counted]
    return [Text(), counted] if room and room > 1 else [counted]


def _shortened(name: Text, room: int) -> Text:
    """`arn:aws…prod-eu`: a long name keeps its start and its end, which tell more than its middle."""
    if name.cell_len <= room:
        return name
    head = room // 3
    start, end = set_cell_size(name.plain, head), set_cell_size(name.plain[::-1], room - 1 - head)[::-1]
    return Text(f"{start}…{end}", name.style)


def _state(state: str) -> Text:
    symbol, colour = _LOOK[state]
    return Text(f"{symbol} {state}", colour)


def _text(value: str, style: str = "") -> Text:
    return Text(for_terminal(value.replace("\n", " ")), style)


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
