"""`python -m bench [QUESTION...]`: answers all questions, or the named ones, as tables, JSON and charts."""

from __future__ import annotations

import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from bench import beside, bulk, connects, distance, entries, gateways, idle, keepalive, large, machine, sites
from bench.charts import RESULTS, draw_folder
from bench.report import print_answer, write_answer
from bench.result import Answer
from bench.scale import QUICK, Scale
from bench.stage import Stage, stages
from bench.targets import print_targets, write_targets

QUESTIONS: Final[dict[str, Callable[[Stage], Answer]]] = {
    "bulk": bulk.measure,
    "keepalive": keepalive.measure,
    "large": large.measure,
    "connects": connects.measure,
    "entries": entries.measure,
    "distance": distance.measure,
    "beside": beside.measure,
    "idle": idle.measure,
    "gateways": gateways.measure,
    "sites": sites.measure,
}
DESCRIPTORS = 16384
"""The limit of file descriptors: one process has both ends of 1,000 connections."""


@click.command()
@click.argument("questions", nargs=-1, type=click.Choice(list(QUESTIONS)))
@click.option(
    "--quick", is_flag=True, help="One repetition of a second, and less of everything: does the bench work?"
)
@click.option("--repetitions", type=click.IntRange(1), help="Of everything; the medians are shown.")
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), help="Folder for JSON and charts."
)
def main(questions: tuple[str, ...], repetitions: int | None, output: Path | None, *, quick: bool) -> None:
    """kubemux beside ssh -L, asyncssh and no tunnel at all, in the same run.

    Takes the machine for 31 minutes, and its figures count only if nothing else runs. They go to
    bench/results, those of --quick only where --output says.
    """
    if missing := machine.missing():
        raise click.ClickException(missing)
    scale = QUICK if quick else Scale()
    scale = scale._replace(repetitions=repetitions or scale.repetitions)
    output = output or (None if quick else RESULTS)
    console = Console(width=None if sys.stdout.isatty() else 160)
    described = machine.describe()
    console.print(", ".join(f"{name} {value}" for name, value in described.items()), highlight=False)
    answers: list[Answer] = []
    paces = [machine.pace()]
    with tempfile.TemporaryDirectory() as folder, stages(Path(folder), scale) as each:
        for name, stage in zip(questions or QUESTIONS, each, strict=False):
            stage.folder.mkdir()
            began = time.monotonic()
            try:
                answer = QUESTIONS[name](stage)
            except (
                RuntimeError,
                AssertionError,
            ) as exc:  # the bench's own, and those that it shares with the tests
                click.echo(f"bench: {name} has no answer: {exc}", err=True)
                continue
            took = time.monotonic() - began
            paces.append(machine.pace())
            answers.append(answer)
            print_answer(answer, console)
            pace = machine.describe_paces(paces[-2:])
            console.print(f"{name} took {took:.0f} s; {pace}", highlight=False)
            if output:
                write_answer(answer, output, machine=described | {"pace": pace}, scale=scale, took=took)
    print_targets(answers, console)
    console.print(machine.describe_paces(paces), highlight=False)
    if quick:
        console.print(
            "One second of each, once: that the bench works is all that this shows.", style="yellow"
        )
    if output and len(answers) == len(QUESTIONS):  # targets.json must be from one run
        write_targets(answers, output, machine=described | {"pace": machine.describe_paces(paces)})
    if output:
        draw_folder(output)  # last, so that drawing takes no CPU time from a measurement
    sys.exit(len(answers) < len(questions or QUESTIONS))


if __name__ == "__main__":
    # A bench that is terminated ends its servers, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, DESCRIPTORS)), hard))
    main()
