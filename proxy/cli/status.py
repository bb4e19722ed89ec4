"""`kubemux status`: the state of the running daemon, as tables or as JSON."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from proxy.admin import client
from proxy.admin.condition import Severity, cut_off, findings
from proxy.admin.finding import find
from proxy.admin.status import from_document, summary
from proxy.cli import say
from proxy.cli.options import config_option, files
from proxy.cli.tables import chosen, render
from proxy.cli.watch import watch
from proxy.config.model import AdminConfig
from proxy.errors import AdminError, ProxyError
from proxy.snapshots import DaemonSnapshot

PIPE_WIDTH: Final = 1 << 20
"""The width of the output if it is no terminal: large enough, so that no line is wrapped or cut."""

EX_UNKNOWN: Final = 3
"""The exit code of `--check` if there is no answer."""
_WORDS: Final = {Severity.WELL: "OK", Severity.DEGRADED: "WARNING", Severity.DOWN: "CRITICAL"}
_SECTIONS: Final = ("gateways", "clusters", "entries", "routes", "sites", "users")


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--json", "as_json", is_flag=True, help="Print the document of /status, stable for scripts.")
@click.option(
    "--watch",
    "watching",
    is_flag=True,
    help="Refresh in place until Ctrl-C; waits for a daemon that restarts.",
)
@click.option(
    "--check",
    "checking",
    is_flag=True,
    help="One line for Nagios, and exit code 0 if all is well, 1 if something is degraded, 2 if something is "
    "down, 3 if the daemon does not answer.",
)
@config_option
def status(names: tuple[str, ...], config: Path, *, as_json: bool, watching: bool, checking: bool) -> None:
    """Show the gateways, sites, clusters, entries, routes and users of the running daemon, what is broken
    first.

    NAME: only this gateway or site with its clusters and routes, this cluster or route with its gateway, this
    entry, or each connection of this user (ops or ssh-user:ops). Without --check the exit code tells whether
    the daemon answered (0) or not (1).
    """
    if checking:
        if as_json or watching:
            raise click.UsageError("--check prints one line: leave out --json and --watch")
        click.get_current_context().exit(_check(names, config))
    with client.explaining_unknown_names(config, names, *_SECTIONS):
        _status(names, config, as_json=as_json, watching=watching)


def _check(names: tuple[str, ...], config: Path) -> int:
    """Print the worst finding and the number of findings, as a Nagios plugin does. Returns the exit code."""
    try:
        admin, config = find(files(config))
        snapshot = asyncio.run(ask(admin, config))
        found = sorted(findings(chosen(snapshot, names), cut_off(snapshot)), key=lambda one: -one.severity)
    except ProxyError as error:
        _say_line(f"UNKNOWN: {error}")
        return EX_UNKNOWN
    severity = found[0].severity if found else Severity.DEGRADED if snapshot.draining else Severity.WELL
    worst = [f"{one.kind} {one.name}: {one.reason}" for one in found[:1]]
    more = [f"{len(found) - 1} more"] if len(found) > 1 else []
    _say_line(f"{_WORDS[severity]}: {', '.join([*worst, *more, summary(snapshot)])}")
    return severity


def _say_line(text: str) -> None:
    """Nagios takes what follows a `|` for figures."""
    say(text.replace("\n", " ").replace("|", "/"))


def _status(names: tuple[str, ...], config: Path, *, as_json: bool, watching: bool) -> None:
    admin, config = find(files(config))
    if watching:
        if as_json:
            raise click.UsageError("--json prints once: leave out --watch")
        console = make_console()
        if not console.is_terminal or console.is_dumb_terminal:
            raise click.UsageError("--watch needs a terminal: leave it out, or use --json in a loop")
        asyncio.run(watch(lambda: ask(admin, config), console, names))
    elif as_json:
        document = asyncio.run(client.fetch_status(admin, config))
        say(json.dumps(_only(document, names) if names else document, indent=2))
    else:
        console = make_console()
        snapshot = asyncio.run(ask(admin, config))
        console.print(render(snapshot, now=time.time(), width=console.width, names=names))


def make_console() -> Console:
    """A console for standard output: colours only on a terminal without NO_COLOR, no line cut in a pipe."""
    console = Console(highlight=False, markup=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, width=PIPE_WIDTH)


async def ask(admin: AdminConfig, config: Path) -> DaemonSnapshot:
    """The snapshot of the daemon that runs with `config`. Raises AdminError."""
    return _understood(await client.fetch_status(admin, config))


def _understood(document: object) -> DaemonSnapshot:
    try:
        return from_document(document)
    except ValueError as exc:
        hint = "the daemon is of another version than this command: restart it; --json prints what it says"
        raise AdminError(f"the daemon's answer is not understood: {exc}", hint=hint) from exc


def _only(document: object, names: tuple[str, ...]) -> object:
    """The document, with only the items that `names` select.

    The items keep all their fields, also unknown fields of a newer daemon.
    """
    shown = chosen(_understood(document), names)
    assert isinstance(document, dict)  # noqa: S101 - it was understood
    kept = {kind: {one.name for one in getattr(shown, kind)} for kind in _SECTIONS if kind in document}
    return document | {
        kind: [one for one in document[kind] if one["name"] in names] for kind, names in kept.items()
    }
