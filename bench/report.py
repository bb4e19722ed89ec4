"""An answer as a table on the terminal, and as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from bench.result import KUBEMUX, Answer, Row, Target, show
from bench.scale import Scale


def print_answer(answer: Answer, console: Console) -> None:
    """Print medians, with the smallest and largest value below, and whether targets were met."""
    targets = any(row.targets for row in answer.rows)
    table = Table(title=answer.title, caption=answer.notes, show_lines=True)
    table.add_column("")
    for column in answer.columns:
        table.add_column(column, justify="right", style="bold" if column == KUBEMUX else "")
    if targets:
        table.add_column("target for kubemux")
    for row in answer.rows:
        cells = [_cell(row.samples.get(column, [])) for column in answer.columns]
        table.add_row(f"{row.name}, {row.unit}", *cells, *([_targets(row)] if targets else []))
    console.print(table)


def _cell(samples: list[float]) -> str:
    return (
        f"{show(median(samples))}\n[dim]{show(min(samples))} - {show(max(samples))}[/dim]" if samples else "-"
    )


def _targets(row: Row) -> str:
    return "\n".join(
        f"{row.sign} {verdict.target.ratio:g} x {verdict.target.than}: {verdict.ratio:.3g} "
        f"{'[green]met' if verdict.met else '[red]missed'}[/]"
        for verdict in row.verdicts()
    )


def write_answer(answer: Answer, folder: Path, *, machine: dict[str, str], scale: Scale, took: float) -> None:
    """Write `folder`/NAME.json. `took` is how many seconds the measurement took."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "title": answer.title,
        "notes": answer.notes,
        "machine": machine,
        "scale": scale._asdict(),
        "took_seconds": round(took),
        "rows": [_as_json(row) for row in answer.rows],
    }
    (folder / f"{answer.name}.json").write_text(json.dumps(content, indent=2) + "\n")


def _as_json(row: Row) -> dict[str, object]:
    return {
        "name": row.name,
        "unit": row.unit,
        "better": "more" if row.more_is_better else "less",
        "columns": {
            column: {"median": median(samples), "samples": samples} for column, samples in row.samples.items()
        },
        "targets": [
            {
                "than": verdict.target.than,
                "wanted": verdict.target.ratio,
                "ratio": verdict.ratio,
                "held": verdict.met,
            }
            for verdict in row.verdicts()
        ],
    }


def read_answer(path: Path) -> tuple[Answer, dict[str, str]]:
    """Read the answer and the machine from a file of `write_answer`."""
    content = json.loads(path.read_text())
    rows = tuple(
        Row(
            row["name"],
            row["unit"],
            more_is_better=row["better"] == "more",
            targets=tuple(Target(target["than"], target["wanted"]) for target in row["targets"]),
            samples={column: each["samples"] for column, each in row["columns"].items()},
        )
        for row in content["rows"]
    )
    return Answer(path.stem, content["title"], content["notes"], rows), content["machine"]
