"""The targets of all questions, and whether they were met: as a table on the terminal, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.result import KUBEMUX, Answer, Line, Target, Verdict


def lines(answers: list[Answer]) -> Iterator[Line]:
    """Every target of every answer, in their order."""
    for answer in answers:
        for row in answer.rows:
            for verdict in row.verdicts():
                yield Line(f"{answer.title}: {row.name}, {row.unit}", row.sign, verdict)


def print_targets(answers: list[Answer], console: Console) -> None:
    """Print the table of targets."""
    notes = (
        f"{KUBEMUX}'s median over the other's, in the same run; beneath it the least and the most of "
        "one repetition."
    )
    table = Table(title="Targets", caption=notes, show_lines=True)
    table.add_column("")
    for name in ("target", "reached", ""):
        table.add_column(name, justify="right")
    for line in lines(answers):
        verdict = line.verdict
        reached = f"{verdict.ratio:.3g}\n[dim]{verdict.least:.3g} - {verdict.most:.3g}[/dim]"
        table.add_row(line.name, line.wanted, reached, f"[{'green' if verdict.met else 'red'}]{line.word}[/]")
    console.print(table)


def write_targets(answers: list[Answer], folder: Path, *, machine: dict[str, str]) -> None:
    """Write `folder`/targets.json."""
    content = {
        "machine": machine,
        "targets": [
            {
                "name": line.name,
                "than": line.verdict.target.than,
                "wanted": f"{line.sign} {line.verdict.target.ratio:g}",
                "ratio": line.verdict.ratio,
                "least": line.verdict.least,
                "most": line.verdict.most,
                "held": line.verdict.met,
            }
            for line in lines(answers)
        ],
    }
    (folder / "targets.json").write_text(json.dumps(content, indent=2) + "\n")


def read_targets(path: Path) -> tuple[list[Line], dict[str, str]]:
    """Read the lines and the machine from a file of `write_targets`."""
    content = json.loads(path.read_text())
    found = []
    for target in content["targets"]:
        sign, wanted = target["wanted"].split()
        figures = (target["ratio"], target["least"], target["most"], target["held"])
        found.append(Line(target["name"], sign, Verdict(Target(target["than"], float(wanted)), *figures)))
    return found, content["machine"]
