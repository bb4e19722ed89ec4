"""`kubemux status`: what the running daemon says of itself, as tables or as JSON."""

from __future__ import annotations

import asyncio
import io
import json
import sys
import time
from pathlib import Path
from typing import Final

import click
from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from proxy.admin import client
from proxy.admin.status import from_document
from proxy.cli import say
from proxy.cli.options import config_option
from proxy.cli.tables import render
from proxy.config.model import AdminConfig
from proxy.errors import AdminError
from proxy.text import for_terminal

REFRESH_SECONDS: Final = 1.0
PIPE_WIDTH: Final = 200
"""Columns where no terminal sets them: names are not cut short for grep."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the document of /status, stable for scripts.")
@click.option("--watch", is_flag=True, help="Refresh in place until Ctrl-C; waits for a daemon that restarts.")
@config_option
def status(config: Path, *, as_json: bool, watch: bool) -> None:
    """Show the gateways and clusters of the running daemon.

    The exit code tells whether the daemon answered (0) or not (1); whether all is well is in `--json` and the metrics.
    """
    admin = client.admin_section(config)
    if watch:
        if as_json:
            raise click.UsageError("--json prints once: leave out --watch")
        _watch(admin, config, make_console())
    elif as_json:
        say(json.dumps(asyncio.run(client.fetch_status(admin, config)), indent=2))
    else:
        console = make_console()
        console.print(_tables(admin, config, console))


def make_console() -> Console:
    """Standard output as it is: colours only on a terminal and without NO_COLOR, full width in a pipe."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a symbol that the locale lacks is a question mark, not the end
    console = Console(highlight=False, markup=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, width=PIPE_WIDTH)


def _tables(admin: AdminConfig, config: Path, console: Console) -> RenderableType:
    document = asyncio.run(client.fetch_status(admin, config))
    try:
        snapshot = from_document(document)
    except ValueError as exc:
        hint = "the daemon is of another version than this command: restart it; --json prints what it says"
        raise AdminError(f"the daemon's answer is not understood: {exc}", hint=hint) from exc
    return render(snapshot, now=time.time(), width=console.width)


def _watch(admin: AdminConfig, config: Path, console: Console) -> None:
    if not console.is_terminal:
        raise click.UsageError("--watch needs a terminal: leave it out, or use --json in a loop")
    with Live(console=console, auto_refresh=False) as live:
        try:
            while True:
                try:
                    shown = _tables(admin, config, console)
                except AdminError as error:
                    shown = Text(for_terminal(f"waiting for the daemon\n{error}"), style="yellow")
                live.update(shown, refresh=True)
                time.sleep(REFRESH_SECONDS)
        except KeyboardInterrupt:
            return
