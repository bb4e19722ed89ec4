"""`kubemux route HOST:PORT`: shows which rule decides for a name, and why the earlier rules do not match."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from proxy.cli import EX_FAILED, say
from proxy.cli.options import config_option
from proxy.config.allow import Rule
from proxy.config.loader import load
from proxy.config.model import DIRECT, Config, SiteConfig
from proxy.config.naming import plain
from proxy.config.scrutiny import Scrutiny
from proxy.config.ssh_rules import SSH, not_permitted, permits
from proxy.entries.heads.head import target
from proxy.errors import UnknownName, UnknownTarget
from proxy.errors.reasons import Reason
from proxy.routing.names import Asks, Names, Passed, ToCluster, ToSite, ToTarget
from proxy.runtime.endpoint import Endpoint


class Asked(click.ParamType[Endpoint]):
    """A requested HOST:PORT. The host may be any text, also one that no entry accepts."""

    name = "host:port"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Endpoint:
        if isinstance(value, Endpoint):
            return value
        host, _, port = str(value).rpartition(":")
        if not host or not port.isascii() or not port.isdecimal():
            self.fail(f"expected HOST:PORT, as prod-eu:443 or [fd00::7]:22, got {value!r}.", param, ctx)
        if len(port) > 5 or not 1 <= int(port) <= 65535:
            self.fail(f"port {port[:9]} is out of range 1-65535.", param, ctx)
        is_bracketed = host.startswith("[") and host.endswith("]")
        return Endpoint(host[1:-1] if is_bracketed else host, int(port))


@click.command()
@click.argument("asked", metavar="HOST:PORT", type=Asked())
@click.option(
    "--entry", metavar="NAME", help="The entry of the client. Without it, routes of all entries count."
)
@config_option
def route(asked: Endpoint, entry: str | None, config: Path) -> None:
    """Say where HOST:PORT leads, which rule decides that, and why the rules before it do not match.

    It only reads the configuration: it makes no connection, resolves no name, and asks no API server for its
    pods. Exit codes: 0 it leads somewhere, or may, 1 nowhere, 2 no such entry, 78 bad configuration.
    """
    loaded = load(config, Scrutiny.NONE)
    entries = [*loaded.entries, *([SSH] if loaded.ssh_server else [])]
    if entry is not None and entry not in entries:
        raise UnknownName.among("entry", entry, entries)
    if why := _not_asked(asked):
        say(f"refused: {Reason.BAD_REQUEST} ({why})")
        _say_dns_name(asked.host, loaded)
        click.get_current_context().exit(EX_FAILED)
    asks: list[Asks] = []
    try:
        for step in Names(loaded).walk(asked, entry):
            if isinstance(step, Asks):
                asks.append(step)
                _say_asks(step, asked.host, loaded)
            elif isinstance(step, Passed):
                say(f"  passed over  {step.rule}: {step.why}")
            elif isinstance(step, ToCluster):
                _say_cluster(step, loaded)
            elif isinstance(step, ToSite):
                _say_site(step, loaded.sites[step.site])
            else:
                _say_target(step, entry, loaded)
        if entry is not None and (may := _who_may_use(entry, loaded)):
            say(f"who may use entry {entry}: {may}")
    except UnknownTarget as error:
        say(f"{'otherwise ' if asks else ''}refused: {error.reason} ({error})")
        if not asks:
            click.get_current_context().exit(EX_FAILED)


def _who_may_use(entry: str, config: Config) -> str:
    """The callers that the entry accepts; empty if it accepts everybody."""
    if entry not in config.entries:
        return "all of `users`; sites, for what an `allow` gives them"
    return ", ".join(map(str, config.entries[entry].allow or ()))


def _not_asked(asked: Endpoint) -> str:
    """Why an entry would refuse this request; empty if it would accept it."""
    try:
        target(str(asked))
    except ValueError as exc:
        return str(exc)
    return ""


def _say_dns_name(host: str, config: Config) -> None:
    for name, cluster in config.clusters.items():
        if plain(name) == plain(host):
            remedy = f"ask for {cluster.dns_name}" if cluster.dns_name else "give it a dns_name"
            say(f"the name of cluster {name} is no host name: {remedy}")


def _say_cluster(found: ToCluster, config: Config) -> None:
    cluster = config.clusters[found.cluster]
    say(f"  decides      cluster {found.cluster}: {found.why}")
    say(f"leads to {' or '.join(map(str, cluster.api_servers))}{_through(cluster.gateway, config)}")
    _say_who_may(cluster.allow)


def _say_asks(found: Asks, pod: str, config: Config) -> None:
    say(f"  may decide   {found.rule}: {found.why}")
    say(f"leads to port {found.port} of pod {pod}{_through(found.route.gateway, config)}, if that pod runs")


def _say_target(found: ToTarget, entry: str | None, config: Config) -> None:
    route = found.route
    say(f"  decides      route {route.name}: {found.why}")
    say(f"leads to {found.target}{_through(route.gateway, config)}")
    if entry is None and route.entries is not None:
        say(f"only at these entries: {', '.join(route.entries)}")
    _say_who_may(route.allow)


def _say_site(found: ToSite, site: SiteConfig) -> None:
    say(f"  decides      {found.why}")
    say(f"leads to {found.target} through site {found.site}")
    if not permits(site, found.target):
        say(f"but it is refused: {not_permitted(found.site, site, found.target)}")
    _say_who_may(None)


def _say_who_may(allow: Sequence[Rule] | None) -> None:
    say(f"who may: {', '.join(map(str, allow)) if allow else 'whom the entry lets in'}")


def _through(gateway: str, config: Config) -> str:
    if gateway == DIRECT:
        return ", without a gateway"
    return f" through {'site' if gateway in config.sites else 'gateway'} {gateway}"
