"""The lines that `kubemux site show` prints. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from proxy.cli.grid import bytes_text, plural, seconds_text
from proxy.snapshots import DaemonSnapshot, SiteLinkSnapshot, SiteSnapshot


def lines(site: SiteSnapshot, daemon: DaemonSnapshot) -> Iterator[str]:
    """The state of a site, its links, its clients and its last refusal."""
    yield f"site {site.name}: {_state(site)}"
    if site.connected is None and site.hint:
        yield f"hint      {site.hint}"
    for kind, links in (("link", site.links), ("retiring", site.retiring), ("caller", site.callers)):
        yield from (f"{kind:<9} {_link(link)}" for link in links)
    yield f"links     {len(site.links)} of at most {site.most}; {_count('reconnect', site.reconnects)}"
    yield f"serves    {_served(site, daemon)}"
    total = f"{site.connections} now, {site.connections_total} in all"
    carried = f"{bytes_text(site.bytes_to_site)} sent, {bytes_text(site.bytes_from_site)} received"
    yield f"by name   {'drained, ' if site.drained else ''}{total}; {carried}"
    if site.refused is None:
        yield "refused   nothing since the daemon's start"
    else:
        last = site.refused
        yield f"refused   {seconds_text(last.age)} ago: {last.reason} ({last.message})"


def _state(site: SiteSnapshot) -> str:
    if site.connected is not None:
        return f"connected for {seconds_text(site.connected)}"
    away = "away" if site.away is None else f"away for {seconds_text(site.away)}"
    why = f": {site.reason} ({site.message})" if site.reason else ""
    return f"{away}{why}"


def _link(link: SiteLinkSnapshot) -> str:
    rtt = "" if link.rtt is None else f", {link.rtt * 1000:.1f} ms"
    forwards = f", -R {' -R '.join(link.forwards)}" if link.forwards else ", no -R"
    since = f"from {link.address} for {seconds_text(link.age)}"
    return f"{since}{forwards}, {_count('channel', link.channels)}{rtt}, {link.key}"


def _served(site: SiteSnapshot, daemon: DaemonSnapshot) -> str:
    clusters = [one.name for one in daemon.clusters if one.gateway == site.name]
    routes = [one.name for one in daemon.routes if one.gateway == site.name]
    return "; ".join([*_named("cluster", clusters), *_named("route", routes), f"NAME.{site.name}"])


def _named(kind: str, names: Sequence[str]) -> list[str]:
    return [f"{kind}{'s' if names[1:] else ''} {', '.join(names)}"] if names else []


def _count(word: str, count: int) -> str:
    return f"{count} {plural(word, count)}"
