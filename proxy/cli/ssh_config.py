"""`kubemux ssh-config`: Host blocks of ssh_config(5) for the routes and sites that lead to SSH servers.

A route does not say which protocol its target speaks, so the port decides. A match counts as SSH if it names
one port, and that port, or the port of the target, is in `SSH_PORTS` or given by --port.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator
from ipaddress import IPv4Network
from pathlib import Path
from typing import Final

import click

from proxy.cli import note, say
from proxy.cli.entries import choose
from proxy.cli.options import config_option
from proxy.config.asked import RouteConfig
from proxy.config.loader import load
from proxy.config.matches import Match
from proxy.config.model import Config, DiscoverConfig, SiteConfig
from proxy.config.scrutiny import Scrutiny
from proxy.runtime.endpoint import Local

SSH_PORTS: Final = frozenset({22, 2209, 2222})
"""ssh's default port, and common ports of servers without root, in notebooks and containers."""


@click.command("ssh-config")
@click.option(
    "--entry", metavar="NAME", help="The entry to connect to. Default: as `kubemux connect` has it."
)
@click.option(
    "--port",
    "ports",
    type=click.IntRange(1, 65535),
    multiple=True,
    metavar="PORT",
    help=f"Another port of SSH servers (repeatable), besides {', '.join(map(str, sorted(SSH_PORTS)))}.",
)
@config_option
def ssh_config(entry: str | None, ports: tuple[int, ...], config: Path) -> None:
    """Print Host blocks for ssh's configuration, for the routes and sites that lead to SSH servers.

    Put them into a file of their own, and `Include` that at the top of ~/.ssh/config.
    """
    loaded = load(config, Scrutiny.NONE)
    name, listen = choose(loaded, config, entry)
    found = list(blocks(loaded, name, listen, SSH_PORTS | set(ports)))
    for block in found:
        say(block)
    if not any("\nHost " in block for block in found):
        note(
            "kubemux: no route and no site leads to SSH servers: `match`, `target` or `permit` must name one "
            f"of the ports {', '.join(map(str, sorted(SSH_PORTS | set(ports))))}; --port adds others"
        )


def blocks(config: Config, entry: str, listen: Local, ports: Collection[int]) -> Iterator[str]:
    """A block for each match that leads to SSH through this entry, in the order of the routes. ssh also uses
    the first block that matches.
    """
    # ssh expands `%`, and gives the rest of the line to the user's shell.
    command = f"kubemux connect --entry {shlex.quote(str(listen))}".replace("%", "%%")
    for route in config.routes:
        if route.entries is not None and entry not in route.entries:
            continue
        if route.discover is not None and route.discover.port in ports:
            yield _pods(route.name, route.discover, command)
        for match in route.match:
            if not _is_ssh(match, route, ports):
                continue
            title = f"# route {route.name}: {match}"
            try:
                hosts = host_patterns(match)
            except ValueError as exc:
                yield f"{title}: not written: {exc}\n"
                continue
            yield _block(title, hosts, match.first, command)
    for name, site in config.sites.items():
        if (port := _site_port(site, ports)) is not None:
            yield _block(f"# site {name}", f"{name} ?*.{name}", port, command)


def _site_port(site: SiteConfig, ports: Collection[int]) -> int | None:
    """The port of SSH servers that `permit` of a site allows; 22 if that is one of them."""
    allowed = (one for one in sorted(ports) if any(match.first <= one <= match.last for match in site.permit))
    return next(allowed, None)


def _block(title: str, hosts: str, port: int, command: str) -> str:
    # Each block has a port; otherwise ssh would use that of a later block that also matches.
    return (
        f"{title}\nHost {hosts}\n    Port {port}\n"
        f"    ProxyCommand {command} --fdpass %h %p\n    ProxyUseFdpass yes\n"
    )


def _pods(route: str, discover: DiscoverConfig, command: str) -> str:
    title = f"# route {route}: pods of {discover.cluster}"
    if discover.namespace is None:  # without a namespace, the pattern would also match github.com
        return f"{title}: not written: without a namespace, it would match every name with one dot\n"
    return _block(title, _without_more_dots(["?*", discover.namespace]), discover.port, command)


def _is_ssh(match: Match, route: RouteConfig, ports: Collection[int]) -> bool:
    if match.first != match.last:
        return any(match.first <= port <= match.last for port in ports)
    target = route.target.port if route.target is not None else ""
    return match.first in ports or target in map(str, ports)


def host_patterns(match: Match) -> str:
    """The patterns for ssh's `Host` that match the names of `match`. Raises ValueError, which says why there
    are none.

    In ssh_config, `*` also matches dots and the empty string. So our `*` becomes `?*`, and a second, negated
    pattern excludes names with more dots.
    """
    if match.first != match.last:
        raise ValueError("it is for several ports, and a Host block has one")
    network = match.network
    if network is not None and network.prefixlen < network.max_prefixlen:
        if not isinstance(network, IPv4Network) or network.prefixlen % 8 or not network.prefixlen:
            raise ValueError("ssh_config has no pattern for this network")
        octets = str(network.network_address).split(".")[: network.prefixlen // 8]
        return _without_more_dots([*octets, *"****"][:4])
    labels = match.host.replace("**", "*").replace("*", "?*").split(".")
    return _without_more_dots(labels) if match.stars and "**" not in match.host else ".".join(labels)


def _without_more_dots(labels: list[str]) -> str:
    return f"{'.'.join(labels)} !*{'.*' * len(labels)}"
