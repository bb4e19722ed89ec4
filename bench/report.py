"""An answer as a table on the terminal, as JSON, and as a chart."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from xml.sax.saxutils import escape

from rich.console import Console
from rich.table import Table

from bench.result import KUBEMUX, Answer, Row, show
from bench.scale import Scale

BAR, LABELS, VALUES, STEP = 360, 220, 170, 18
"""Pixels: the longest bar, the space for names and for figures beside it, the height of a line."""
COLOURS = {KUBEMUX: "#1f6feb"}
OTHERS = "#9aa4b2"


def print_answer(answer: Answer, console: Console) -> None:
    """Medians with the least and the most beneath, and what became of the targets."""
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
        f"{'[green]held' if verdict.held else '[red]missed'}[/]"
        for verdict in row.verdicts()
    )


def write_answer(answer: Answer, folder: Path, *, machine: dict[str, str], scale: Scale, took: float) -> None:
    """`folder`/NAME.json and .svg, for this answer that `took` so many seconds."""
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
    (folder / f"{answer.name}.svg").write_text(chart(answer, machine))


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
                "held": verdict.held,
            }
            for verdict in row.verdicts()
        ],
    }


def chart(answer: Answer, machine: dict[str, str]) -> str:
    """An SVG of medians as bars, each measure to its own scale, with a line from the least to the most."""
    parts: list[str] = []
    y = 2 * STEP

    def text(x: float, words: str, style: str = "") -> None:
        parts.append(f'<text x="{x:.0f}" y="{y}" {style}>{escape(words)}</text>')

    text(STEP, answer.title, 'font-weight="bold" font-size="15"')
    for row in answer.rows:
        y += 2 * STEP
        text(
            STEP,
            f"{row.name}, {row.unit} ({'more' if row.more_is_better else 'less'} is better)",
            'font-weight="bold"',
        )
        largest = max(max(samples) for samples in row.samples.values()) or 1.0
        for column in answer.columns:
            if samples := row.samples.get(column):
                y += STEP
                text(LABELS - 8, column, 'text-anchor="end"')
                least, middle, most = (
                    value / largest * BAR for value in (min(samples), median(samples), max(samples))
                )
                colour = COLOURS.get(column, OTHERS)
                parts.append(
                    f'<rect x="{LABELS}" y="{y - 11}" width="{max(middle, 1):.1f}" height="13" '
                    f'fill="{colour}"/>'
                )
                parts.append(
                    f'<path d="M{LABELS + least:.1f} {y - 4.5}H{LABELS + most:.1f}" stroke="#24292f"/>'
                )
                text(LABELS + most + 8, show(median(samples)))
    y += 2 * STEP
    text(STEP, f"{machine['processor']}, {machine['date']}", 'fill="#57606a"')
    width, height = LABELS + BAR + VALUES, y + STEP
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} '
        f'{height}"'
        ' font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#fff"/>'
    )
    return "\n".join([head, *parts, "</svg>\n"])
