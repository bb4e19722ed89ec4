"""`kubemux probe CLUSTER`: one probe from this process, explained step by step. Needs no daemon."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
import uvloop
from rich.console import Console
from rich.text import Text

from proxy.cli import say
from proxy.cli.options import config_option
from proxy.cluster import probe_dial
from proxy.config.loader import load
from proxy.config.model import ClusterConfig, Config
from proxy.errors import ProxyError, Stage, UnknownName
from proxy.health.explain import Step, Verdict, steps
from proxy.health.probe import probe as run_probe
from proxy.health.result import Outcome, unreached
from proxy.health.tls import Contexts
from proxy.logging import configure
from proxy.ssh import nobody

_STYLES: Final = {Verdict.OK: "green", Verdict.FAILED: "bold red", Verdict.NOT_REACHED: "dim"}
_INDENT: Final = " " * 15


@dataclass(frozen=True, slots=True)
class _Report:
    cluster: str
    config: ClusterConfig
    outcome: Outcome
    connecting: float | None

    @property
    def steps(self) -> list[Step]:
        return steps(self.config, self.outcome, connecting=self.connecting)


@click.command()
@click.argument("cluster")
@click.option("--json", "as_json", is_flag=True, help="For scripts: one JSON object.")
@config_option
def probe(cluster: str, as_json: bool, config: Path) -> None:
    """Probe CLUSTER once and explain, step by step, where it stops and what to do.

    Exit codes: 0 its API server is alive, 1 it is not, 2 no such cluster, 78 bad configuration.
    """
    nobody.answer()
    loaded = load(config)
    if cluster not in loaded.clusters:
        raise UnknownName.among("cluster", cluster, loaded.clusters)
    configure("console", "error")  # to standard error: the report tells everything but a bug
    report = uvloop.run(_run(loaded, cluster))
    if as_json:
        say(json.dumps(_as_json(report), indent=2))
    else:
        _print(report, Console(highlight=False, soft_wrap=True))
    click.get_current_context().exit(0 if report.outcome.result.alive else 1)


async def _run(config: Config, name: str) -> _Report:
    cluster = config.clusters[name]
    started = time.monotonic()
    connecting = None
    try:
        async with probe_dial(config, name) as dial:
            connecting = time.monotonic() - started
            outcome = await run_probe(name, cluster, dial, Contexts())
    except ProxyError as exc:
        outcome = unreached(exc, time.monotonic() - started).named(name)
    return _Report(name, cluster, outcome, connecting)


def _print(report: _Report, console: Console) -> None:
    outcome = report.outcome
    console.print(Text.assemble((report.cluster, "bold"), f" through {report.config.gateway}"))
    for step in report.steps:
        verdict = step.verdict.upper() if step.verdict is Verdict.FAILED else step.verdict
        took = "" if step.seconds is None else f"  {step.seconds * 1000:.1f} ms"
        if step.stage is Stage.AUTH and step.verdict is Verdict.OK:
            took += " from TCP to here"
        console.print(Text.assemble("  ", (f"{verdict:<13}", _STYLES[step.verdict]), step.title, (took, "dim")))
        if step.stage is outcome.stage:
            console.print(Text(f"{_INDENT}{outcome.message}"))
            if outcome.refused:
                console.print(Text(f"{_INDENT}{outcome.refused}"))
            if outcome.hint:
                console.print(Text.assemble(_INDENT, ("hint: ", "bold"), outcome.hint))
    alive = outcome.result.alive
    console.print(Text.assemble(("alive" if alive else "down", "bold green" if alive else "bold red"), f": {outcome.result}"))


def _as_json(report: _Report) -> dict[str, object]:
    outcome, certificate = report.outcome, report.outcome.refused
    return {
        "cluster": report.cluster,
        "gateway": report.config.gateway,
        "alive": outcome.result.alive,
        "result": outcome.result,
        "message": outcome.message,
        "hint": outcome.hint,
        "status": outcome.status,
        "seconds": outcome.seconds,
        "certificate_expiry": outcome.certificate_expiry,
        "certificate": certificate
        and {
            "names": certificate.names,
            "issuer": certificate.issuer,
            "not_before": certificate.not_before.isoformat(),
            "not_after": certificate.not_after.isoformat(),
        },
        "steps": [
            {"stage": step.stage, "title": step.title, "verdict": step.verdict, "seconds": step.seconds} for step in report.steps
        ],
    }
