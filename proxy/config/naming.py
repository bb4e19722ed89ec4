"""Checks that each name that clients can ask for is unambiguous. Pure: it opens no file."""

from __future__ import annotations

from collections.abc import Iterator

from proxy.config import discovering
from proxy.config.findings import Finding
from proxy.config.matches import Match
from proxy.config.model import DIRECT, Config, RouteConfig
from proxy.config.ssh_rules import SSH
from proxy.runtime.text import shown, suggest


def check(config: Config) -> Iterator[Finding]:
    """The mistakes in routes; and in names of clusters, if clients can ask for them by name."""
    if config.routes or config.entries or config.ssh_server is not None:
        yield from _twins(config)
    names: dict[str, int] = {}
    decided: dict[tuple[Match, str | None], str] = {}
    entries = [*config.entries, *([SSH] if config.ssh_server is not None else [])]
    for index, route in enumerate(config.routes):
        if (first := names.setdefault(route.name, index)) != index:
            message = f"routes[{first}] is called {shown(route.name)}, too"
            yield Finding(("routes", index, "name"), message, "give each route a name of its own")
        if route.gateway not in {DIRECT, *config.gateways, *config.sites}:
            hint = suggest(route.gateway, (*config.gateways, *config.sites, DIRECT))
            yield Finding(
                ("routes", index, "gateway"), f"there is no gateway or site {shown(route.gateway)}", hint
            )
        for place, entry in enumerate(route.entries or ()):
            if entry not in entries:
                hint = suggest(entry, entries)
                yield Finding(("routes", index, "entries", place), f"there is no entry {shown(entry)}", hint)
        yield from discovering.check(config, index, route)
        yield from _blanks(index, route)
        yield from _shadows(index, route, decided)


def unused(config: Config) -> Iterator[Finding]:
    """A finding for routes that no client can use, because there is no entry."""
    if config.routes and not config.entries and config.ssh_server is None:
        message = "no client can use a route: there is neither an entry nor ssh_server"
        yield Finding(("routes",), message, 'add entries: {proxy: {listen: "127.0.0.1:3128"}}')


def hidden(config: Config) -> Iterator[Finding]:
    """A finding for each pattern that decides nothing, because one of an earlier route matches all it does.

    Equal patterns are mistakes, which `check` finds. Two patterns with stars are not compared.
    """
    wide: list[tuple[Match, RouteConfig]] = []
    for index, route in enumerate(config.routes):
        for place, match in enumerate(route.match):
            for earlier, owner in wide:
                if earlier.covers(match) and earlier != match and _takes_all_of(owner, route):
                    message = (
                        f"{match} never decides: {earlier} of {shown(owner.name)} comes first, and covers it"
                    )
                    yield Finding(
                        ("routes", index, "match", place),
                        message,
                        "move this route up, or remove the pattern",
                    )
                    break
        wide += [(match, route) for match in route.match if not match.is_one_host or match.first < match.last]


def _takes_all_of(earlier: RouteConfig, later: RouteConfig) -> bool:
    """Whether the earlier route is asked by all entries that ask the later one."""
    return earlier.entries is None or (
        later.entries is not None and set(later.entries) <= set(earlier.entries)
    )


def _twins(config: Config) -> Iterator[Finding]:
    """Clusters whose names differ only in case, which is ignored in requests."""
    owners: dict[str, tuple[str, str]] = {}
    for name, cluster in config.clusters.items():
        for key, said in (("", name), ("dns_name", cluster.dns_name)):
            if said is None:
                continue
            owner, twin = owners.setdefault(plain(said), (name, said))
            if owner != name:
                differ = "" if said == twin else ", and case does not count in what clients ask for"
                loc = ("clusters", name, key) if key else ("clusters", name)
                message = f"clients already ask for the cluster {shown(owner)} as {shown(twin)}{differ}"
                yield Finding(loc, message, "give one of the two another name")


def plain(name: str) -> str:
    """The form of a name that is compared with requests."""
    return name.lower().removesuffix(".")


def _blanks(index: int, route: RouteConfig) -> Iterator[Finding]:
    if route.target is None:
        return
    for match in route.match:
        if route.target.stars > match.stars:
            has = "no star" if not match.stars else "one star" if match.stars == 1 else f"{match.stars} stars"
            message = f"{{{route.target.stars}}} stands for nothing where {match} is matched, which has {has}"
            hint = "{1} is what the first star of a match stands for; give matches without it their own route"
            yield Finding(("routes", index, "target"), message, hint)
            return


def _shadows(
    index: int, route: RouteConfig, decided: dict[tuple[Match, str | None], str]
) -> Iterator[Finding]:
    """Patterns that are never used, because an earlier route has the same."""
    for place, match in enumerate(route.match):
        at_each = [(match, entry) for entry in route.entries or (None,)]
        owners = [decided.get((match, None)) or decided.get(one) for one in at_each]
        if all(owners):
            message = f"{match} never decides: {shown(owners[0])} has it, too, and comes first"
            yield Finding(("routes", index, "match", place), message, "remove it from one of the two")
        decided.update((one, route.name) for one in at_each if one not in decided)
