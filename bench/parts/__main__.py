"""`python -m bench.parts [--save]`: measure every part, and compare it with the stored baseline.

Times are the shortest of many rounds, in us for one packet or client. A slower machine is not a regression:
`yardstick`, which runs no code of kubemux, is measured just before and after each part, and its change is
removed from the part's. A part that seems slower is measured again. The exit code is 1 if a part has become
slower by more than TOLERANCE.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final, NamedTuple

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

ROOT: Final = Path(__file__).parents[2]
COMMAND: Final = (
    sys.executable,
    "-m",
    "pytest",
    "bench/parts",
    "-q",
    "-n0",
    "-p",
    "no:randomly",
    "-p",
    "no:cacheprovider",
)
BASELINE: Final = Path(__file__).with_name("baseline.json")
TOLERANCE: Final = 0.1
"""On a machine with a constant speed, two runs of the same code differ by less than 5 %."""


class Change(NamedTuple):
    """A part: its shortest time in us for one item in the baseline and now (0: the part does not exist), and
    how much slower it is, corrected by the yardstick.
    """

    name: str
    before: float
    now: float
    slower: float

    @property
    def is_regression(self) -> bool:
        """Whether the change is more than noise."""
        return self.slower > TOLERANCE


class Run(NamedTuple):
    """The time of each part in us for one item, and the yardstick's time next to it."""

    parts: dict[str, float]
    yardsticks: dict[str, float]


def measure() -> Run:
    """Run the benchmarks. Raises RuntimeError if one fails."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [*COMMAND, "--benchmark-disable-gc", "--benchmark-quiet", f"--benchmark-json={report}"]
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
        if done.returncode:
            raise RuntimeError(f"a part does not work:\n{done.stdout}{done.stderr}")
        return read(json.loads(report.read_text()))


def read(report: dict[str, Any]) -> Run:
    """pytest-benchmark's report, by name."""
    run = Run({}, {})
    for part in report["benchmarks"]:
        name, info = part["name"].removeprefix("test_"), part["extra_info"]
        run.parts[name] = part["stats"]["min"] / info.get("items", 1) * 1e6
        run.yardsticks[name] = info["yardstick"] * 1e6
    return run


def compare(before: Run, now: Run) -> list[Change]:
    """Every part of both runs; a part that is new or gone counts as unchanged."""
    changes = []
    for name in before.parts | now.parts:
        then, here = before.parts.get(name, 0.0), now.parts.get(name, 0.0)
        slower = here / then * before.yardsticks[name] / now.yardsticks[name] - 1 if then and here else 0.0
        changes.append(Change(name, then, here, slower))
    return changes


def show(changes: list[Change]) -> Table:
    """Print the changes as a table."""
    table = Table(
        title="Parts of the process",
        caption="us for each packet or client, least of many rounds; the change is by the yardstick",
    )
    for column in ("", "baseline", "now", "change"):
        table.add_column(column, justify="right" if column else "left")
    for change in changes:
        style = "red" if change.is_regression else "green" if change.slower < -TOLERANCE else ""
        figures = [f"{value:.2f}" if value else "-" for value in (change.before, change.now)]
        table.add_row(
            escape(change.name),
            *figures,
            f"{change.slower:+.0%}" if change.before and change.now else "",
            style=style,
        )
    return table


@click.command()
@click.option("--save", is_flag=True, help="Keep what comes out as the baseline.")
def main(*, save: bool) -> None:
    """Measure the parts of the process next to the baseline."""
    now = measure()
    before = Run(**json.loads(BASELINE.read_text())) if BASELINE.exists() else now
    changes = compare(before, now)
    if not save and any(change.is_regression for change in changes):
        changes = [
            min(pair, key=lambda change: change.slower)
            for pair in zip(changes, compare(before, measure()), strict=True)
        ]
    Console(width=None if sys.stdout.isatty() else 120).print(show(changes))
    if save:
        kept = {
            kind: {name: round(us, 3) for name, us in times.items()} for kind, times in now._asdict().items()
        }
        BASELINE.write_text(json.dumps(kept, indent=2) + "\n")
    sys.exit(not save and any(change.is_regression for change in changes))


if __name__ == "__main__":
    main()
