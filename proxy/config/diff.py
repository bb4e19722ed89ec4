"""Compares two configurations, and plans what a reload has to do. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from proxy.config.keys import keys
from proxy.config.model import (
    ClusterConfig,
    Config,
    EntryConfig,
    GatewayConfig,
    RouteConfig,
    SiteConfig,
    SshServerConfig,
    UserConfig,
)
from proxy.config.references import paths

SSH_SERVER: Final = "ssh_server"


@dataclass(frozen=True, slots=True)
class Change:
    """The names of gateways, clusters, routes, entries, sites or users, by what the reload does with them.

    Each tuple has the order of the new configuration; `removed` has that of the old one.
    """

    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    """Another server answers now: the old connections end."""
    added: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    renewed: tuple[str, ...] = ()
    """The same server answers, but settings or files differ: connections stay."""
    adjusted: tuple[str, ...] = ()
    """Only gateways: their links adopt the new settings, and stay."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps from one configuration to the next.

    A cluster may be in `kept` while its gateway is in `changed`.
    """

    gateways: Change
    clusters: Change
    routes: Change
    """The routes, compared by name. Their order does not matter here: it only affects new connections."""
    entries: Change
    ssh_server: Change
    """Of one name: SSH_SERVER."""
    sites: Change
    users: Change
    limits: bool
    """Whether `limits:` differs; likewise `admin` and `log`."""
    admin: bool
    log: bool


def changed(old: Mapping[Path, bytes], new: Mapping[Path, bytes]) -> frozenset[Path]:
    """The files whose contents differ between two fingerprints (`proxy.config.credentials.Inspection`).

    A file that is in only one of them does not count as changed: it could not be read when the other one was
    made, or its section was added or removed.
    """
    return frozenset(path for path in old.keys() & new.keys() if old[path] != new[path])


def plan(old: Config, new: Config, changed_files: frozenset[Path] = frozenset()) -> Plan:
    """The steps from `old` to `new`, given the files that changed in between.

    A gateway, cluster or route is `changed` if a key differs that decides which server answers
    (`Key.elsewhere`). It is `renewed` if only other keys differ, or the contents of a file that it names, or
    if it jumps through a gateway that is changed or renewed. A gateway is `adjusted` if only keys differ that
    links take while they are up (`Key.in_place`), or if it jumps through one that is.
    """
    old_routes, new_routes = ({route.name: route for route in one.routes} for one in (old, new))
    old_server, new_server = (
        {SSH_SERVER: one.ssh_server} if one.ssh_server is not None else {} for one in (old, new)
    )
    differing = _unlike(old.gateways, new.gateways, changed_files)
    before = differing & old.gateways.keys()
    in_place = {name for name in before if _is_in_place(old, new, name, changed_files)}
    relinked = _spread(new, differing - in_place)
    adjusted = _spread(new, in_place) - relinked
    return Plan(
        gateways=_change(old.gateways, new.gateways, relinked | adjusted, adjusted=adjusted),
        clusters=_change(old.clusters, new.clusters, _unlike(old.clusters, new.clusters, changed_files)),
        routes=_change(old_routes, new_routes, _unlike(old_routes, new_routes, frozenset())),
        entries=_change(old.entries, new.entries, _unlike(old.entries, new.entries, changed_files)),
        ssh_server=_change(old_server, new_server, _unlike(old_server, new_server, changed_files)),
        sites=_change(old.sites, new.sites, _unlike(old.sites, new.sites, changed_files)),
        users=_change(old.users, new.users, _unlike(old.users, new.users, changed_files)),
        limits=old.limits != new.limits,
        admin=old.admin != new.admin,
        log=old.log != new.log,
    )


_Sections = (
    Mapping[str, GatewayConfig]
    | Mapping[str, ClusterConfig]
    | Mapping[str, RouteConfig]
    | Mapping[str, EntryConfig]
    | Mapping[str, SshServerConfig]
    | Mapping[str, SiteConfig]
    | Mapping[str, UserConfig]
)


def _unlike(old: _Sections, new: _Sections, changed_files: frozenset[Path]) -> set[str]:
    def is_like(name: str) -> bool:
        return old.get(name) == new[name] and changed_files.isdisjoint(paths(new[name]))

    return {name for name in new if not is_like(name)}


def _is_in_place(old: Config, new: Config, name: str, changed_files: frozenset[Path]) -> bool:
    """Whether a gateway that differs can keep its links, because they can take the new settings."""
    before, after = old.gateways[name], new.gateways[name]
    relink = [key for key, fact in keys(GatewayConfig).items() if not fact.in_place]
    is_same = all(getattr(before, key) == getattr(after, key) for key in relink)
    return is_same and changed_files.isdisjoint(paths(after))


def _spread(config: Config, names: set[str]) -> set[str]:
    """These gateways, and those that jump through one of them."""
    return names | {name for name in config.gateways if _hops(config, name) & names}


def _hops(config: Config, name: str) -> set[str]:
    """Each gateway that the connection to `name` jumps through, directly or by another gateway's `jump`."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        for hop in config.gateways[waiting.pop()].jump:
            if hop not in found:
                found.add(hop)
                waiting.append(hop)
    return found


def _change(
    old: _Sections, new: _Sections, differing: set[str], *, adjusted: Collection[str] = frozenset()
) -> Change:
    """What happens to each section. `differing` are the names of those that differ. Of these, links of the
    `adjusted` ones stay.
    """

    def is_same(name: str) -> bool:
        elsewhere = [key for key, fact in keys(type(new[name])).items() if fact.elsewhere]
        return all(getattr(old[name], key) == getattr(new[name], key) for key in elsewhere)

    stay = [name for name in new if name in old]
    return Change(
        removed=tuple(name for name in old if name not in new),
        changed=tuple(name for name in stay if name in differing and not is_same(name)),
        added=tuple(name for name in new if name not in old),
        kept=tuple(name for name in stay if name not in differing),
        renewed=tuple(name for name in stay if name in differing and name not in adjusted and is_same(name)),
        adjusted=tuple(name for name in stay if name in adjusted),
    )
