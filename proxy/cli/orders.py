"""`kubemux reload`, `reconnect GATEWAY` and `drain NAME`, which the running daemon carries out.

They reach the daemon through its unix socket.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from ipaddress import ip_address
from itertools import chain
from pathlib import Path
from pwd import getpwnam
from typing import Final

import click

from proxy.admin import client
from proxy.admin.finding import find
from proxy.cli import note, say
from proxy.cli.options import Duration, config_option, files
from proxy.config.allow import KINDS, Rule
from proxy.config.quantities import format_duration
from proxy.errors import AdminError, ConfigError, Problem
from proxy.runtime.endpoint import Endpoint
from proxy.runtime.text import shown

ORDER_BUDGET: Final = 60.0
"""How many seconds a reload or reconnect may take.

A reload drains what was removed, and a reconnect closes links one by one; the daemon limits both itself.
"""
_REFUSED: Final = (
    "refused as a whole: the daemon keeps its configuration; it reads changed key files all the same"
)
_DESTINATIONS: Final = ("clusters", "routes", "sites", "gateways")


@click.command()
@config_option
def reload(config: Path) -> None:
    """Make the running daemon read its configuration again.

    What did not change keeps its connections. A file with mistakes is refused as a whole: this command prints
    them, the daemon keeps its configuration, and the exit code is 78. The daemon reads the file that it
    was started with. --config must name the same file.
    """
    answer = _command(config, "reload", {}, ORDER_BUDGET)
    done = answer if isinstance(answer, dict) else {}
    lines = [f"{verb} {name}" for verb in ("added", "changed", "removed") for name in done.get(verb, ())]
    say("\n".join(lines) or "reloaded: nothing changed")
    for warning in done.get("warnings", ()):
        note(f"warning: {warning}")


@click.command()
@click.argument("gateway")
@config_option
def reconnect(gateway: str, config: Path) -> None:
    """Replace the links of GATEWAY: new ones are dialled at once. Connections through the old ones go on
    until they end, for retire_timeout at most.
    """
    _command(config, "reconnect", {"gateway": gateway}, ORDER_BUDGET)
    say(f"gateway {gateway}: dialling again; kubemux status shows how it goes")


@click.command()
@click.argument("name", metavar="[CLUSTER|ROUTE|GATEWAY|SITE]", required=False)
@click.option(
    "--caller",
    help="End only the connections of this caller, at once: uid:NAME or uid:NUMBER, cert:NAME, "
    "proxy-user:NAME, or an address, with or without its port. Without CLUSTER, ROUTE or SITE, all of the "
    "caller's connections end.",
)
@click.option(
    "--timeout",
    type=Duration(),
    default="5m",
    show_default=True,
    help="How long to wait: 30s, 5m, or a number of seconds.",
)
@config_option
def drain(name: str | None, caller: str | None, timeout: float, config: Path) -> None:
    """Stop taking connections for CLUSTER or ROUTE, and wait until its open connections have ended, or
    limits.drain_timeout ends them. GATEWAY or SITE stands for all that leads through it.

    With --caller, end the connections of one caller, and go on taking connections.
    """
    if caller is not None:
        _end(name, as_logged(caller), config)
    elif name is None:
        raise click.UsageError("which cluster? kubemux drain CLUSTER, or kubemux drain --caller CALLER")
    else:
        _drain(name, timeout, config)


def as_logged(caller: str) -> str:
    """`caller` as the daemon's log has it. Raises BadParameter."""
    kind, _, name = caller.partition(":")
    kinds = ", ".join(f"{one}:NAME" for one in KINDS if one != "gid")
    wrong = f"expected {kinds} or an address, got {shown(caller)}"
    if kind == "gid":
        wrong = "a caller is not known by its groups: name the user, uid:NAME"
    elif kind in KINDS and name:
        try:
            rule = Rule.parse(caller)
            return str(rule) if kind != "uid" or rule.name.isdecimal() else f"uid:{getpwnam(name).pw_uid}"
        except KeyError:
            wrong = f"there is no user {shown(name)}: for a removed one, give the number, uid:NUMBER"
        except ValueError as error:
            wrong = str(error)
    else:
        with suppress(ValueError):
            return str(ip_address(caller))
        with suppress(ValueError):
            return str(Endpoint.parse(caller))
    raise click.BadParameter(wrong, param_hint="--caller")


def _end(of: str | None, caller: str, config: Path) -> None:
    params = {"caller": caller, **({"of": of} if of is not None else {})}
    where = f"{of}: " if of is not None else ""
    match _command(config, "end", params, ORDER_BUDGET, sections=("clusters", "routes", "sites")):
        case {"ended": int(ended)} if ended:
            say(f"{where}{_connections(ended)} of {caller} ended")
        case _:
            say(f"{where}{caller} has no connections: 0 ended")


def _drain(name: str, timeout: float, config: Path) -> None:
    try:
        answer = _command(config, "drain", {"cluster": name}, timeout, sections=_DESTINATIONS)
    except client.Unfinished as error:
        raise AdminError(
            f"{name}: still draining after {format_duration(timeout)}{_remaining(error.document, name)}; "
            "it goes on, for limits.drain_timeout at most",
            hint="kubemux status shows how many connections it still has",
        ) from error
    match answer:
        case {"drained": []}:
            say(f"{name}: nothing leads through it")
        case {"cut": int(cut)} if cut:
            say(f"{name}: drained{_parts(name, answer)}, {_connections(cut)} cut")
        case _:
            say(f"{name}: drained{_parts(name, answer)}")


def _parts(name: str, answer: object) -> str:
    """What a drain of a gateway or site has drained."""
    match answer:
        case {"drained": list() as drained} if drained not in ([f"cluster {name}"], [f"route {name}"]):
            return f" ({', '.join(map(str, drained))})"
    return ""


def _remaining(document: object, wanted: str) -> str:
    """How many connections are left of the cluster or route `wanted`, or through the gateway or site."""
    named, through = [], []
    sections = (document.get(name) for name in _DESTINATIONS) if isinstance(document, dict) else ()
    for one in chain.from_iterable(section for section in sections if isinstance(section, list)):
        match one:
            case {"name": name, "gateway": gateway, "connections": int(count)}:
                named += [count] * (name == wanted)
                through += [count] * (gateway == wanted)
            case {
                "name": name,
                "connections": int(count),
            }:  # a site, and the clients that ask for names at it
                through += [count] * (name == wanted)
    counts = named or through
    return f", {_connections(sum(counts))} left" if counts else ""


def _connections(count: int) -> str:
    return f"{count} connection{'s' * (count != 1)}"


def _command(
    config: Path, name: str, params: dict[str, str], budget: float, sections: tuple[str, ...] = ()
) -> object:
    """`sections` are the sections of the file that have the names. Without them, the parameters decide."""
    try:
        admin, config = find(files(config), orders=True)
    except ConfigError as error:  # this process could not read the file; the daemon was not asked
        hint = "mend the file, or name the one that the daemon was started with: --config FILE"
        error.problems.append(
            Problem(0, "", "the daemon was not asked, and goes on as before if it runs", hint)
        )
        raise
    try:
        with client.explaining_unknown_names(
            config, params.values(), *(sections or (f"{kind}s" for kind in params))
        ):
            return asyncio.run(client.command(admin, config, name, params=params, budget=budget))
    except ConfigError as refused:
        refused.problems.append(Problem(0, "", _REFUSED))
        raise
