"""`kubemux connect HOST PORT` for what `proxy.connect` does not handle: help, usage errors, no
entry named.
"""

from __future__ import annotations

from pathlib import Path

import click

from proxy.cli.entries import choose
from proxy.cli.options import config_option
from proxy.config.loader import load
from proxy.config.scrutiny import Scrutiny
from proxy.connect import asking
from proxy.connect.command import VARIABLE, Order, run
from proxy.errors import ConfigError, Problem
from proxy.runtime.endpoint import Local
from proxy.runtime.text import shown


class Entry(click.ParamType[Local | str]):
    """The address of an entry, or its name in the configuration."""

    name = "entry"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Local | str:
        text = str(value)
        try:
            return asking.entry(text)
        except ValueError as exc:
            if text and not {"/", ":"} & set(text):
                return text
            self.fail(f"{exc}; or unix:PATH, or the name of an entry.", param, ctx)


@click.command()
@click.argument("host")
@click.argument("port")
@click.option(
    "--entry",
    metavar="unix:PATH|HOST:PORT|NAME",
    type=Entry(),
    envvar=VARIABLE,
    show_envvar=True,
    help="Where the proxy entry listens, or its name in the configuration. Default: the first entry there "
    "on a unix socket, else the first. With an address the command starts faster, and does not read the "
    "configuration.",
)
@click.option(
    "--fdpass",
    is_flag=True,
    help="Hand the connected socket to ssh and exit, so that no process carries the bytes. It needs "
    "`ProxyUseFdpass yes`.",
)
@config_option
def connect(host: str, port: str, entry: Local | str | None, fdpass: bool, config: Path) -> None:
    """Connect standard input and output to HOST PORT, through a proxy entry of the running daemon.

    It is for ssh: `ProxyCommand kubemux connect %h %p`. HOST is any name or address that the entry knows,
    and `kubemux route HOST:PORT` says where it leads.

    Exit codes: 0 both sides have ended, 1 refused or lost, 2 usage, 78 bad configuration.
    """
    try:
        target = asking.target(host, port)
    except ValueError as exc:
        raise click.UsageError(f"{exc}.") from None
    if entry is None or isinstance(entry, str):
        entry = _configured(config, entry)
    click.get_current_context().exit(run(Order(entry, target, fdpass)))


def _configured(config: Path, name: str | None) -> Local:
    try:
        loaded = load(config, Scrutiny.NONE)
    except ConfigError as error:
        why = f"{shown(name)} is the name of an entry" if name else "no entry is named"
        remedy = f"say where the entry is: --entry unix:PATH, or {VARIABLE}=unix:PATH in the environment"
        error.problems.append(Problem(0, "", f"it was read because {why}", remedy))
        raise
    return choose(loaded, config, name)[1]
