"""Resolves what a client asks for, a host and a port, to a cluster, a route's target or a target at a site.

The rules are tried in this order: a cluster's name or `dns_name`, an address of a cluster's `api_servers`,
the routes in the order of the file, a site and a name at a site (`NAME.SITE`). Nothing else is tried, and no
name is looked up in the DNS.

The targets of a route with `discover` are pods, whose addresses change. The daemon watches the pods, and
passes `Names` a function that returns a pod's address.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from proxy.config.matches import Host
from proxy.config.model import Config, DiscoverConfig, RouteConfig
from proxy.config.naming import plain
from proxy.errors import Ambiguous, UnknownTarget
from proxy.runtime.endpoint import Endpoint
from proxy.runtime.text import nearest, shown

_USUAL: Final = frozenset({443, 6443})
"""The ports of API servers. With any of them, a cluster's name means the cluster."""
_LOOPBACK: Final = "127.0.0.1"
_SSH: Final = 22
"""The default port of ssh."""


@dataclass(frozen=True, slots=True)
class ToCluster:
    """The client asks for a cluster, and may get any of its API servers."""

    cluster: str
    why: str


@dataclass(frozen=True, slots=True)
class ToTarget:
    """The client asks for a name that a route matches."""

    route: RouteConfig
    host: str
    """The requested host, in lower case and without a final dot. A gateway pattern dials this host."""
    target: Endpoint
    why: str


@dataclass(frozen=True, slots=True)
class ToSite:
    """The client asks for a target at a site."""

    site: str
    target: Endpoint
    why: str


Decision = ToCluster | ToTarget | ToSite


@dataclass(frozen=True, slots=True)
class Passed:
    """A rule that does not match the request."""

    rule: str
    explain: Callable[[], str]

    @property
    def why(self) -> str:
        """Why it does not match; computed only when it is shown."""
        return self.explain()


@dataclass(frozen=True, slots=True)
class Asks(Passed):
    """A route that matches if such a pod exists. The configuration alone cannot decide that."""

    route: RouteConfig
    port: int


FindPod = Callable[[str, str], str]
"""From a route's name and `NAME.NAMESPACE` to the address of that pod. Raises UnknownTarget."""


class Names:
    """The rules of one configuration. Immutable: a reload makes a new object."""

    def __init__(self, config: Config, find_pod: FindPod | None = None) -> None:
        """Without `find_pod`, a route with `discover` never matches; `walk` yields an `Asks` for it."""
        self._find_pod = find_pod
        self._routes = config.routes
        self._sites = config.sites
        self._called: dict[str, str] = {}
        self._ports: dict[str, frozenset[int]] = {}
        """The ports with which clients ask for each cluster."""
        self._serving: dict[Endpoint, list[str]] = {}
        for name, cluster in config.clusters.items():
            self._ports[name] = _USUAL | {address.port for address in cluster.api_servers}
            for said in filter(None, (name, cluster.dns_name)):
                self._called[plain(said)] = name
            for address in cluster.api_servers:
                owners = self._serving.setdefault(_plain(address), [])
                if name not in owners:
                    owners.append(name)

    def find(self, asked: Endpoint, entry: str | None) -> Decision:
        """The cluster or target for a client of `entry` that asks for `asked`. Its host and port may be any
        text and number.

        Without an entry, a route's list of entries is ignored. Raises UnknownTarget.
        """
        return next(step for step in self.walk(asked, entry) if not isinstance(step, Passed))

    def walk(self, asked: Endpoint, entry: str | None) -> Iterator[Passed | Decision]:
        """Like `find`, but yields each rule that does not match, and at last the decision."""
        host, port = shown(asked.host), asked.port
        if (name := self._called.get(plain(asked.host))) is None:
            yield Passed("clusters", lambda: f"none is called {host}")
        elif port in (ports := self._ports[name]):
            yield ToCluster(name, f"it is called {host}")
            return
        else:
            yield Passed("clusters", lambda: f"{shown(name)} is asked for by {_listed(ports)}, not by {port}")
        owners = self._serving.get(_plain(asked), ())
        if len(owners) > 1:
            raise Ambiguous(f"it is an API server of {' and '.join(owners)}: ask for one by its name")
        if owners:
            yield ToCluster(owners[0], f"{asked} is one of its api_servers")
            return
        yield Passed("api_servers", lambda: f"no cluster has {host} with port {port}")
        yield from self._routed(asked, entry)

    def _routed(self, asked: Endpoint, entry: str | None) -> Iterator[Passed | Decision]:
        try:
            host = Host.parse(asked.host)
        except ValueError as exc:
            said = str(exc)
            yield Passed("routes", lambda: said)
            raise self._unknown(asked, entry) from exc
        missing: UnknownTarget | None = None
        for route in self._routes:
            rule = f"route {route.name}"
            step: Passed | ToTarget
            if entry is not None and route.entries is not None and entry not in route.entries:
                step = Passed(rule, partial(_others, "entries", route.entries))
            elif route.discover is not None:
                try:
                    step = self._pod(route, route.discover, asked, host)
                except UnknownTarget as exc:
                    missing = missing or exc
                    step = Passed(rule, partial(str, exc))
            else:
                step = _matched(route, asked, host)
            yield step
            if isinstance(step, ToTarget):
                return
        at_site = self._at_site(asked.port, host)
        if at_site is not None:
            yield at_site
            return
        if self._sites:
            yield Passed("sites", lambda: f"{shown(str(host))} is neither a site nor a name at one")
        raise missing or self._unknown(asked, entry, host)

    def _at_site(self, port: int, host: Host) -> ToSite | None:
        labels = () if host.address is not None else host.labels
        for first in range(len(labels)):
            site = ".".join(labels[first:])
            if site in self._sites:
                here = ".".join(labels[:first]) or _LOOPBACK
                return ToSite(site, Endpoint(here, port), f"{site} is a site")
        return None

    def _pod(
        self, route: RouteConfig, discover: DiscoverConfig, asked: Endpoint, host: Host
    ) -> Passed | ToTarget:
        rule, pod = f"route {route.name}", str(host)
        ports = frozenset({_SSH, discover.port})
        if len(host.labels) != 2:
            return Passed(rule, lambda: "it is for pods, which are asked for as NAME.NAMESPACE")
        if asked.port not in ports:
            return Passed(rule, lambda: f"its pods are asked for by {_listed(ports)}")
        if discover.namespace not in (None, host.labels[1]):
            return Passed(rule, lambda: f"it is for pods of namespace {discover.namespace}")
        if self._find_pod is None:
            return Asks(
                rule, lambda: f"the daemon knows the pods of {discover.cluster}", route, discover.port
            )
        address = self._find_pod(route.name, pod)
        return ToTarget(route, pod, Endpoint(address, discover.port), f"{discover.cluster} has this pod")

    def _unknown(self, asked: Endpoint, entry: str | None, host: Host | None = None) -> UnknownTarget:
        if cluster := self._called.get(plain(asked.host)):
            return UnknownTarget(f"{cluster} is asked for by {_listed(self._ports[cluster])}")
        matches = [
            match
            for route in self._routes
            if entry is None or route.entries is None or entry in route.entries
            for match in route.match
        ]
        if host and (near := [one.ports for one in matches if one.captures(host, one.first) is not None]):
            return UnknownTarget(f"{host} is asked for by port {' or '.join(dict.fromkeys(near))}")
        hosts = (match.host for match in matches if match.is_one_host)
        close = nearest(plain(asked.host), (*self._called, *hosts, *self._sites))
        return UnknownTarget(f"nearest: {close}" if close else "no cluster and no route leads there")


def _matched(route: RouteConfig, asked: Endpoint, host: Host) -> Passed | ToTarget:
    for match in route.match:
        captures = match.captures(host, asked.port)
        if captures is not None:
            return ToTarget(route, str(host), _target(route, asked, host, captures), f"{match} matches")
    return Passed(f"route {route.name}", partial(_why_not, route, host))


def _target(route: RouteConfig, asked: Endpoint, host: Host, captures: tuple[str, ...]) -> Endpoint:
    if route.target is None:
        return asked if host.address is None else asked._replace(host=str(host))
    try:
        return route.target.fill(host, asked.port, captures)
    except ValueError as exc:
        raise UnknownTarget(f"the target of route {route.name}: {exc}") from exc


def _plain(address: Endpoint) -> Endpoint:
    """The host in the form in which hosts are compared; an address has many spellings."""
    try:
        return Endpoint(str(Host.parse(address.host)), address.port)
    except ValueError:
        return Endpoint(plain(address.host), address.port)


def _why_not(route: RouteConfig, host: Host) -> str:
    near = [match for match in route.match if match.captures(host, match.first) is not None]
    return _others("ports" if near else "names", near or route.match)


def _others(kind: str, what: Iterable[object]) -> str:
    return f"it is for other {kind}: {', '.join(map(str, what))}"


def _listed(ports: frozenset[int]) -> str:
    return f"port {' or '.join(map(str, sorted(ports)))}"
