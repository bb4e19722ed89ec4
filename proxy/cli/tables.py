"""Shows a snapshot as tables for people.

Pure: it takes a snapshot, the time and the width, and returns what rich can print.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.segment import SegmentLines
from rich.text import Text

from proxy.admin.condition import Severity, cut_off, findings, is_failing, is_up
from proxy.admin.status import summary
from proxy.cli.grid import (
    LOOK,
    bytes_text,
    days_left,
    fair_shares,
    lines_of,
    milliseconds,
    plural,
    seconds_text,
    state,
    table,
    text,
)
from proxy.cli.logins import logins, users
from proxy.config.quantities import format_size
from proxy.errors import LinkDown, UnknownName
from proxy.snapshots import (
    ClusterSnapshot,
    DaemonSnapshot,
    EntrySnapshot,
    GatewaySnapshot,
    RouteSnapshot,
    SiteSnapshot,
)

WIDE: Final = 120
"""The width at which all columns of the clusters are shown."""
_MAY_FAIL: Final = 3
"""How many tables can have rows with a state: the first ones, of gateways, sites and clusters."""
LISTED: Final = 8
"""How many names are listed for one cause if the height is limited."""
_RANK: Final = {word: ("red", "yellow", "green").index(colour) for word, (_, colour) in LOOK.items()}
"""The order of states: broken ones come first."""
_COLOUR: Final = {Severity.DEGRADED: "yellow", Severity.DOWN: "red"}


def render(
    snapshot: DaemonSnapshot,
    *,
    now: float,
    width: int,
    height: int | None = None,
    names: Collection[str] = (),
) -> RenderableType:
    """The head line, the gateways, the sites, the clusters, the entries, the routes, the users who are logged
    in, and the causes of failures. Broken ones come first.

    `now` is Unix time. `width` and `height` are those of the terminal. If `height` is too small, rows without
    a problem are left out first. With `names`, only the result of `chosen` is shown. Raises UnknownName.
    """
    lost = cut_off(snapshot)
    shown = _worst_first(chosen(snapshot, names), lost)
    tables = _tables(shown, lost, now=now, wide=width >= WIDE)
    tables.append(logins(shown.users) if names else users(shown.users))
    problems = _problems(shown, lost, None if height is None else LISTED)
    if not (snapshot.clusters or snapshot.routes or snapshot.sites):
        problems.insert(0, text("no clusters are configured", "yellow"))
    head = _head(snapshot)
    if height is None:
        return Group(
            head, *(line for headers, rows in tables for line in table(headers, rows, width)), *problems
        )
    lines = Console(width=width).render_lines(Group(*problems), pad=False) if problems else []
    wanted = [lines_of(rows) for _, rows in tables]
    # What is broken is among the gateways, the sites, the clusters and the problems. The others get a line,
    # and what is left.
    others = sum(map(bool, wanted[_MAY_FAIL:]))
    *rooms, left = fair_shares(height - 2 - others, [*wanted[:_MAY_FAIL], len(lines)])
    rooms += fair_shares(height - 2 - sum(rooms) - left, wanted[_MAY_FAIL:])
    return Group(
        head,
        *(
            line
            for (headers, rows), room in zip(tables, rooms, strict=True)
            for line in table(headers, rows, width, room)
        ),
        SegmentLines(lines[:left], new_lines=True),
    )


def chosen(snapshot: DaemonSnapshot, names: Collection[str]) -> DaemonSnapshot:
    """The gateways, clusters, entries, routes, sites and users with these names. Also the clusters and routes
    of these gateways and sites, and the gateways and sites of these clusters and routes.

    A user has two names, `ops` and `ssh-user:ops`. Without names, all of them. Raises UnknownName.
    """
    if not names:
        return snapshot
    known = {one.name for one in snapshot.gateways} | {one.name for one in snapshot.clusters}
    known |= {one.name for one in snapshot.entries} | {one.name for one in snapshot.routes}
    known |= {one.name for one in snapshot.sites} | {one.identity for one in snapshot.users}
    for name in names:
        if name not in known and all(name != one.name for one in snapshot.users):
            raise UnknownName.among("gateway, cluster, entry, route, site or user", name, known)
    clusters = tuple(one for one in snapshot.clusters if one.name in names or one.gateway in names)
    routes = tuple(one for one in snapshot.routes if one.name in names or one.gateway in names)
    theirs = {one.gateway for one in clusters if one.name in names}
    theirs |= {one.gateway for one in routes if one.name in names}
    return replace(
        snapshot,
        gateways=tuple(one for one in snapshot.gateways if one.name in names or one.name in theirs),
        clusters=clusters,
        entries=tuple(one for one in snapshot.entries if one.name in names),
        routes=routes,
        sites=tuple(one for one in snapshot.sites if one.name in names or one.name in theirs),
        users=tuple(one for one in snapshot.users if one.name in names or one.identity in names),
    )


def _worst_first(snapshot: DaemonSnapshot, lost: Collection[str]) -> DaemonSnapshot:
    """Keep routes in their order: it decides which route a name means, and routes have no state."""
    return replace(
        snapshot,
        gateways=tuple(sorted(snapshot.gateways, key=lambda gateway: _RANK[gateway.state])),
        clusters=tuple(sorted(snapshot.clusters, key=lambda cluster: _RANK[_condition(cluster, lost)])),
        entries=tuple(sorted(snapshot.entries, key=lambda entry: entry.listening and not entry.reason)),
        sites=tuple(sorted(snapshot.sites, key=lambda site: _RANK[site.state])),
    )


def _tables(
    shown: DaemonSnapshot, lost: Collection[str], *, now: float, wide: bool
) -> list[tuple[list[str], list[list[Text]]]]:
    """The headers and the rows of each table."""
    where = ["LISTEN", "GATEWAY", "API SERVER"] if wide else ["LISTEN"]
    return [
        (
            ["GATEWAY", "STATE", ">LINKS", ">RTT", ">CHANNELS", ">RECONNECTS", ">RETRY IN", ">CERT"],
            [_gateway(gateway, now=now) for gateway in shown.gateways],
        ),
        (
            [
                "SITE",
                "STATE",
                ">LINKS",
                ">RTT",
                ">CHANNELS",
                ">RECONNECTS",
                ">FOR",
                "FROM",
                ">SENT",
                ">RECVD",
            ],
            [_site(site) for site in shown.sites],
        ),
        (
            ["CLUSTER", "STATE", *where, ">PROBE", ">CONNS", ">SENT", ">RECVD", ">CERT"],
            [_cluster(cluster, lost, now=now, wide=wide) for cluster in shown.clusters],
        ),
        (["ENTRY", "STATE", "LISTEN", ">CONNS", ">TOTAL"], [_entry(entry) for entry in shown.entries]),
        (
            ["ROUTE", "GATEWAY", ">CONNS", ">TOTAL", ">SENT", ">RECVD", "MATCH"],
            [_route(route) for route in shown.routes],
        ),
    ]


def _condition(cluster: ClusterSnapshot, lost: Collection[str]) -> str:
    """The word in the table: `up?` if the cluster was up, and since then a probe has failed, or its gateway
    or site has lost its last link.
    """
    if not cluster.listening:
        return "down"
    return "up?" if is_up(cluster) and (is_failing(cluster) or cluster.gateway in lost) else cluster.state


def _head(snapshot: DaemonSnapshot) -> Text:
    line = text(summary(snapshot), "bold yellow" if snapshot.draining else "bold")
    buffers = f"{bytes_text(snapshot.buffered_bytes)} of {format_size(snapshot.memory_limit)} buffered"
    more = f"kubemux {snapshot.version}, pid {snapshot.pid}, up {seconds_text(snapshot.uptime)}, {buffers}"
    return Text("\n").join([line, text(more, "dim")])


def _gateway(gateway: GatewaySnapshot, *, now: float) -> list[Text]:
    rtts = [link.rtt for link in gateway.links if link.rtt is not None]
    return [
        text(gateway.name, "bold"),
        state(gateway.state),
        Text(
            f"{len(gateway.links)}/{gateway.wanted}{f'+{len(gateway.retiring)}' if gateway.retiring else ''}"
        ),
        milliseconds(min(rtts, default=None)),
        Text(str(sum(link.channels for link in (*gateway.links, *gateway.retiring)))),
        Text(str(gateway.reconnects)),
        Text("-" if gateway.retry_in is None else seconds_text(gateway.retry_in)),
        days_left(gateway.certificate_expiry, now),
    ]


def _cluster(cluster: ClusterSnapshot, lost: Collection[str], *, now: float, wide: bool) -> list[Text]:
    return [
        text(cluster.name, "bold"),
        state(_condition(cluster, lost)),
        text(cluster.listen or "-", "" if cluster.listening else "red"),
        *([text(cluster.gateway), text(cluster.api_server)] if wide else []),
        # Without a link no probe was sent, so there is no time.
        milliseconds(None if cluster.reason == LinkDown.reason else cluster.probe_seconds),
        Text(str(cluster.connections)),
        Text(bytes_text(cluster.bytes_to_cluster)),
        Text(bytes_text(cluster.bytes_from_cluster)),
        days_left(cluster.certificate_expiry, now),
    ]


def _entry(entry: EntrySnapshot) -> list[Text]:
    return [
        text(entry.name, "bold"),
        state("up" if entry.listening and not entry.reason else "down"),
        text(entry.listen, "" if entry.listening else "red"),
        Text(str(entry.connections)),
        Text(str(entry.connections_total)),
    ]


def _route(route: RouteSnapshot) -> list[Text]:
    pods = route.discovery
    first, *others = (f"{pods.pods} pods of {pods.cluster}",) if pods else route.match or ("-",)
    return [
        text(route.name, "bold"),
        text(route.gateway),
        Text(str(route.connections)),
        Text(str(route.connections_total)),
        Text(bytes_text(route.bytes_to_target)),
        Text(bytes_text(route.bytes_from_target)),
        text(f"{first} +{len(others)}" if others else first),
    ]


def _site(site: SiteSnapshot) -> list[Text]:
    links = (*site.links, *site.retiring, *site.callers)
    rtts = [link.rtt for link in site.links if link.rtt is not None]
    since = site.away if site.connected is None else site.connected
    return [
        text(site.name, "bold"),
        state(site.state),
        Text(f"{len(site.links)}/{site.most}{f'+{len(site.retiring)}' if site.retiring else ''}"),
        milliseconds(min(rtts, default=None)),
        Text(str(sum(link.channels for link in links))),
        Text(str(site.reconnects)),
        Text("-" if since is None else seconds_text(since)),
        text(site.links[-1].address if site.links else "-"),
        Text(bytes_text(site.bytes_to_site)),
        Text(bytes_text(site.bytes_from_site)),
    ]


def _problems(snapshot: DaemonSnapshot, lost: frozenset[str], listed: int | None) -> list[RenderableType]:
    """Each cause of failures once, with the names of what fails because of it.

    `listed`: how many names are shown for a cause; None for all.
    """
    causes: dict[tuple[str, Severity, str, str, str], list[str]] = {}
    for kind, name, severity, reason, message, hint in findings(snapshot, lost):
        causes.setdefault((kind, severity, reason, message, hint), []).append(name)
    shown: list[RenderableType] = []
    for (kind, severity, reason, message, hint), names in causes.items():
        more = f" and {len(names) - listed} more" if listed is not None and len(names) > listed else ""
        subject = f"{plural(kind, len(names))} {', '.join(names[:listed])}{more}"
        shown += [
            Text(),
            Text.assemble(
                text(subject, _COLOUR[severity]), text(f": {reason}{f': {message}' if message else ''}")
            ),
        ]
        if hint:
            shown.append(Padding(text(f"hint: {hint}", "cyan"), (0, 0, 0, 2), expand=False))
    return shown
