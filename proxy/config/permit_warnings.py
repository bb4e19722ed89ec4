"""Warnings of what a site's `permit` shuts out: routes that lead nowhere, and sites that are of no use. Pure.

An API server or a fixed target outside of `permit` is not here: it is an error (`ssh_rules`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from proxy.config.allow import ANY, Rule
from proxy.config.findings import Finding, Loc
from proxy.config.matches import Host, Match, Target
from proxy.config.model import Config, RouteConfig
from proxy.runtime.endpoint import Endpoint

_ADDRESSES: Final = (Match.parse("0.0.0.0/0:*"), Match.parse("[::/0]:*"))
_ANYTHING: Final = (Match.parse("**:*"), *_ADDRESSES)


def warnings(config: Config) -> Iterator[Finding]:
    """A warning for each pattern of a route of which nothing may be asked of the route's site, and for each
    site of which nothing may be asked, and which may ask for nothing itself.
    """
    yield from _useless(config)
    for index, route in enumerate(config.routes):
        if (site := config.sites.get(route.gateway)) is None:
            continue
        permit = f"sites.{route.gateway}.permit"
        if not site.permit:
            message = f"leads nowhere: {permit} is missing, so nothing may be asked of this site"
            hint = f'add {permit}: ["HOST:PORT"], with the targets of this route'
            yield Finding(("routes", index, "gateway"), message, hint)
            continue
        for loc, what, targets in _ways(route):
            if not any(one.meets(target) for one in site.permit for target in targets):
                message = f"leads nowhere: {permit} has nothing of {what}"
                hint = f"add {' and '.join(map(str, targets))} to {permit}, or as much of it as clients need"
                yield Finding(("routes", index, *loc), message, hint)


def _useless(config: Config) -> Iterator[Finding]:
    lists = [one.allow for one in config.clusters.values()] + [one.allow for one in config.routes]
    rules = {rule for allow in lists for rule in allow or ()}
    ways = {route.gateway for route in config.routes}
    for name, site in config.sites.items():
        me = Rule("site", name)
        if not site.permit and name not in ways and rules.isdisjoint({me, Rule(ANY)}):
            message = f"is of no use: without `permit`, nothing may be asked of it, and no `allow` has {me}"
            hint = f'add permit: ["HOST:PORT"] to the site, or {me} to the `allow` of what it may reach'
            yield Finding(("sites", name), message, hint)


def _ways(route: RouteConfig) -> Iterator[tuple[Loc, str, tuple[Match, ...]]]:
    """The place of each pattern, its targets for messages, and patterns that match at least all of these."""
    if route.discover is not None:
        port = route.discover.port
        pods = tuple(replace(one, first=port, last=port) for one in _ADDRESSES)
        yield ("discover",), f"the addresses of pods, with port {port}", pods
    for place, match in enumerate(route.match):
        what = str(match) if route.target is None else f"{route.target}, where {match} leads"
        yield ("match", place), what, _targets(match, route.target)


def _targets(match: Match, target: Target | None) -> tuple[Match, ...]:
    if target is None:
        return (match,)
    first, last = (match.first, match.last) if target.port == "{port}" else (int(target.port),) * 2
    return tuple(replace(one, first=first, last=last) for one in _hosts(match, target.host))


def _hosts(match: Match, host: str) -> tuple[Match, ...]:
    if host == "{host}":
        return (match,)
    if "{" not in host:
        return (Match.parse(str(Endpoint(str(Host.parse(host)), 1))),)
    # What a star has matched may be several labels. It may also be an address, if no label follows it.
    known = host.rpartition("}")[2].partition(".")[2]
    return (Match.parse(f"**.{known}:*"),) if known else _ANYTHING
