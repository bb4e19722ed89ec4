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
from proxy.admin.finding import find
from proxy.admin.status import from_document
from proxy.cli import say
from proxy.cli.options import config_option, files
from proxy.cli.tables import chosen, render
from proxy.cli.watch import watch
from proxy.config.model import AdminConfig
from proxy.errors import AdminError
from proxy.snapshots import DaemonSnapshot

PIPE_WIDTH: Final = 1 << 20
"""The width of the output if it is not a terminal: so large that no line is wrapped or cut."""


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--json", "as_json", is_flag=True, help="Print the document of /status, stable for scripts.")
@click.option(
    "--watch",
    "watching",
    is_flag=True,
    help="Refresh in place until Ctrl-C; waits for a daemon that restarts.",
)
@config_option
def status(names: tuple[str, ...], config: Path, *, as_json: bool, watching: bool) -> None:
    """Show the gateways and clusters of the running daemon, what is broken first.

    NAME: only this gateway and its clusters, or this cluster and its gateway. The exit code tells whether the
    daemon answered (0) or not (1); whether all is well is in `--json` and the metrics.
    """
    with client.explaining_unknown_names(config, names, "gateways", "clusters"):
        _status(names, config, as_json=as_json, watching=watching)


def _status(names: tuple[str, ...], config: Path, *, as_json: bool, watching: bool) -> None:
    admin, config = find(files(config))
    if watching:
        if as_json:
            raise click.UsageError("--json prints once: leave out --watch")
        console = make_console()
        if not console.is_terminal or console.is_dumb_terminal:
            raise click.UsageError("--watch needs a terminal: leave it out, or use --json in a loop")
        asyncio.run(watch(lambda: _ask(admin, config), console, names))
    elif as_json:
        document = asyncio.run(client.fetch_status(admin, config))
        say(json.dumps(_only(document, names) if names else document, indent=2))
    else:
        console = make_console()
        snapshot = asyncio.run(_ask(admin, config))
        console.print(render(snapshot, now=time.time(), width=console.width, names=names))


def make_console() -> Console:
    """A console for standard output: colours only on a terminal without NO_COLOR, no line cut in a pipe."""
    console = Console(highlight=False, markup=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, width=PIPE_WIDTH)


async def _ask(admin: AdminConfig, config: Path) -> DaemonSnapshot:
    return _understood(await client.fetch_status(admin, config))


def _understood(document: object) -> DaemonSnapshot:
    try:
        return from_document(document)
    except ValueError as exc:
        hint = "the daemon is of another version than this command: restart it; --json prints what it says"
        raise AdminError(f"the daemon's answer is not understood: {exc}", hint=hint) from exc


def _only(document: object, names: tuple[str, ...]) -> object:
    """The document with only the gateways and clusters that `names` select.

    They keep all their fields, also those of a newer daemon that this version does not know.
    """
    shown = chosen(_understood(document), names)
    kept = {
        "gateways": {gateway.name for gateway in shown.gateways},
        "clusters": {cluster.name for cluster in shown.clusters},
    }
    assert isinstance(document, dict)  # noqa: S101 - it was understood
    return document | {
        kind: [one for one in document[kind] if one["name"] in names] for kind, names in kept.items()
    }
