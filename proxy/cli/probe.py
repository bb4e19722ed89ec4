"""`kubemux probe CLUSTER`: one probe, explained step by step.

This process sends the probe. If its user may not read the keys, the daemon sends it.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Final

import click
import uvloop
from rich.console import Console
from rich.text import Text

from proxy.admin import client
from proxy.cli import note, say
from proxy.cli.options import config_option
from proxy.config import credentials
from proxy.config.loader import load
from proxy.config.model import Config
from proxy.config.scrutiny import Scrutiny
from proxy.config.unknown import no_cluster
from proxy.daemon import doctor
from proxy.daemon.doctor import Report
from proxy.errors import AdminError, ConfigError, Problem, Stage
from proxy.health.explain import Verdict
from proxy.runtime.logging import configure
from proxy.runtime.text import for_terminal
from proxy.ssh.login import nobody

ASK_BUDGET: Final = 120.0
"""Seconds for a probe by the daemon: each gateway of a chain may take `connect_timeout`."""
_STYLES: Final = {Verdict.OK: "green", Verdict.FAILED: "bold red", Verdict.NOT_REACHED: "dim"}
_INDENT: Final = " " * 15


@click.command()
@click.argument("cluster")
@click.option("--json", "as_json", is_flag=True, help="For scripts: one JSON object.")
@click.option("-v", "--verbose", is_flag=True, help="Also print what was taken from ssh_config.")
@config_option
def probe(cluster: str, as_json: bool, verbose: bool, config: Path) -> None:
    """Probe CLUSTER once and explain, step by step, where it stops and what to do.

    It needs no daemon. If this user may not read the keys, the running daemon sends the probe with its own.
    Exit codes: 0 its API server is alive, 1 it is not, 2 no such cluster, 78 bad configuration.
    """
    nobody.answer()
    configure("console", "error")  # only bugs are logged: the report has the rest
    try:
        loaded = load(config)
    except ConfigError as refused:
        report = _for_who_may_not(cluster, config, refused)
    else:
        through = _with(cluster, loaded).clusters[cluster].gateway
        if through in loaded.sites:
            report = _by_daemon(cluster, config, loaded)
            note(f"{through} is a site: the daemon, pid {report.daemon}, has its links, and sent the probe")
        else:
            report = uvloop.run(doctor.examine(loaded, cluster))
    if as_json:
        say(json.dumps(report.to_document(), indent=2))
    else:
        console = Console(highlight=False, soft_wrap=True)
        if verbose:
            _print_settings(report, console)
        _print(report, console)
    click.get_current_context().exit(0 if report.alive else 1)


def _with(cluster: str, config: Config) -> Config:
    if cluster not in config.clusters:
        raise no_cluster(config, cluster, "probe")
    return config


def _for_who_may_not(cluster: str, path: Path, refused: ConfigError) -> Report:
    """The report of a probe that the daemon with this file sends.

    Raises `refused` if its problems have another cause than the permissions of this user.
    """
    readable = _with(cluster, load(path, Scrutiny.NONE))
    denied = credentials.denied(readable)
    if not denied:
        raise refused
    try:
        report = _by_daemon(cluster, path, readable)
    except AdminError as error:
        refused.problems.append(
            Problem(0, "", f"nor could the daemon be asked to probe for this user: {error}", error.hint)
        )
        raise refused from error
    note(f"this user may not read {denied[0]}: the daemon, pid {report.daemon}, sent the probe")
    return report


def _by_daemon(cluster: str, path: Path, config: Config) -> Report:
    """The report of a probe that the daemon with this file sends. Raises AdminError."""
    with client.explaining_unknown_names(path, [cluster], "clusters"):
        answer = asyncio.run(
            client.command(config.admin, path, "probe", params={"cluster": cluster}, budget=ASK_BUDGET)
        )
    try:
        return doctor.from_document(answer)
    except ValueError as error:
        hint = "the daemon is of another version than this command: restart it"
        raise AdminError(str(error), hint=hint) from error


def _print(report: Report, console: Console) -> None:
    by = "" if report.daemon is None else ", probed by the daemon"
    console.print(Text.assemble(_text(report.cluster, "bold"), _text(f" through {report.gateway}{by}")))
    for step in report.steps:
        verdict = step.verdict.upper() if step.verdict is Verdict.FAILED else step.verdict
        took = "" if step.seconds is None else f"  {step.seconds * 1000:.1f} ms"
        if step.stage is Stage.AUTH and step.verdict is Verdict.OK and step.seconds is not None:
            took += " from TCP to here"
        console.print(
            Text.assemble("  ", (f"{verdict:<13}", _STYLES[step.verdict]), _text(step.title), (took, "dim"))
        )
        if step.stage is report.stage:
            console.print(_text(f"{_INDENT}{report.message}"))
            if report.certificate:
                console.print(_text(f"{_INDENT}{report.certificate.text}"))
            if report.hint:
                console.print(Text.assemble(_INDENT, ("hint: ", "bold"), _text(report.hint)))
    verdict, style = ("alive", "bold green") if report.alive else ("down", "bold red")
    console.print(Text.assemble((verdict, style), _text(f": {report.result}")))


def _print_settings(report: Report, console: Console) -> None:
    hosts = dict.fromkeys((taken.host, taken.file) for taken in report.settings)
    for host, file in hosts:
        console.print(_text(f"ssh_config {file} for {host}, without ssh's own defaults"))
        for taken in report.settings:
            if taken.host == host:
                why = f": {taken.why}" if taken.why else ""
                said = " ".join(filter(None, (taken.option, taken.value)))
                console.print(Text.assemble("  ", (f"{taken.use:<13}", "dim"), _text(f"{said}{why}")))


def _text(text: str, style: str = "") -> Text:
    return Text(for_terminal(text), style)
