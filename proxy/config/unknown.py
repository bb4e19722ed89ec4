"""The error for a command's argument that is not the name of a cluster, or not of a gateway.

Most of these mistakes are a gateway's name where a cluster's is needed, or the other way round:
`kubemux probe GATEWAY`.
"""

from __future__ import annotations

from collections.abc import Iterable

from proxy.config.model import DIRECT, Config
from proxy.errors import UnknownName
from proxy.runtime.text import listed


def no_cluster(config: Config, name: str, command: str) -> UnknownName:
    """The error if `command` needs a cluster, and `name` is not one."""
    theirs = sorted(cluster for cluster, section in config.clusters.items() if section.gateway == name)
    if name == DIRECT and theirs:
        return UnknownName(
            f"{name!r} stands for no gateway at all, and {command} takes a cluster",
            hint=f"clusters that are reached without a gateway: {listed(theirs)}",
        )
    if name in config.gateways:
        return UnknownName(
            f"{name!r} is a gateway, and {command} takes a cluster",
            hint=f"its clusters are: {listed(theirs)}" if theirs else "no cluster has it as its `gateway`",
        )
    if name in config.sites:
        return UnknownName(
            f"{name!r} is a site, and {command} takes a cluster",
            hint=f"its clusters are: {listed(theirs)}" if theirs else "no cluster has it as its `gateway`",
        )
    among = UnknownName.among("cluster", name, config.clusters)
    for kind, names in (("a route", [route.name for route in config.routes]), ("an entry", config.entries)):
        if name in names:
            return UnknownName(f"{name!r} is {kind}, and {command} takes a cluster", hint=among.hint)
    return among


def not_drained(config: Config, name: str) -> UnknownName:
    """The error if `kubemux drain` cannot drain `name`."""
    what = "cluster, route, gateway or site"
    user = name.removeprefix("ssh-user:")
    if user in config.users:
        return UnknownName(
            f"{name!r} is a user, and drain takes a {what}",
            hint=f"kubemux drain --caller ssh-user:{user} ends the connections of the user",
        )
    if name == DIRECT:
        return no_cluster(config, name, "drain")
    routes = [route.name for route in config.routes]
    among = UnknownName.among(what, name, {*config.clusters, *routes, *config.gateways, *config.sites})
    if name in config.entries:
        return UnknownName(f"{name!r} is an entry, and drain takes a {what}", hint=among.hint)
    return among


def no_gateway(config: Config, name: str, command: str, *, beside: Iterable[str] = ()) -> UnknownName:
    """The error if `command` needs a gateway (or one of the words `beside`), and `name` is not one."""
    if name in config.clusters:
        gateway = config.clusters[name].gateway
        return UnknownName(
            f"{name!r} is a cluster, and {command} takes a gateway",
            hint="it has none (`gateway: direct`)" if gateway == DIRECT else f"its gateway is {gateway!r}",
        )
    if name == DIRECT:
        return UnknownName(
            f"{name!r} stands for no gateway at all, and {command} takes a gateway",
            hint=UnknownName.among("gateway", name, config.gateways).hint,
        )
    if name in config.sites and name not in beside:
        return UnknownName(
            f"{name!r} is a site, and {command} takes a gateway",
            hint="a site dials by itself: restart its ssh",
        )
    return UnknownName.among("gateway", name, [*config.gateways, *beside])
