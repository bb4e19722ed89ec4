"""What was aimed at and what came of it, over all questions: the last table, its JSON and its chart."""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import log10
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

from rich.console import Console
from rich.table import Table

from bench.result import KUBEMUX, Answer, Row, Verdict

NAMES, BAR, FIGURES, STEP = 460, 300, 290, 22
"""Pixels: the space for names, the longest bar, the space for figures beside it, the height of a line."""
HELD, MISSED = "#2da44e", "#cf222e"
DECADES = 1.0
"""A bar is at its longest when the target was held, or missed, by a factor of ten."""


class Line(NamedTuple):
    """One target. `margin` is over 1 if it was held, whichever direction is better."""

    name: str
    row: Row
    verdict: Verdict

    @property
    def margin(self) -> float:
        """By which factor it was held (over 1), or missed (below 1)."""
        margin = self.verdict.ratio / self.verdict.target.ratio
        return margin if self.row.more_is_better or not margin else 1 / margin

    @property
    def wanted(self) -> str:
        """As in `>= 1.25 x ssh -L`."""
        return f"{self.row.sign} {self.verdict.target.ratio:g} x {self.verdict.target.than}"

    @property
    def word(self) -> str:
        """What became of it."""
        return "held" if self.verdict.held else "missed"


def lines(answers: list[Answer]) -> Iterator[Line]:
    """Every target of every answer, in their order."""
    for answer in answers:
        for row in answer.rows:
            for verdict in row.verdicts():
                yield Line(f"{answer.title}: {row.name}, {row.unit}", row, verdict)


def print_targets(answers: list[Answer], console: Console) -> None:
    """The last table."""
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
        table.add_row(
            line.name, line.wanted, reached, f"[{'green' if verdict.held else 'red'}]{line.word}[/]"
        )
    console.print(table)


def write_targets(answers: list[Answer], folder: Path, *, machine: dict[str, str]) -> None:
    """`folder`/targets.json and .svg."""
    content = {
        "machine": machine,
        "targets": [
            {
                "name": line.name,
                "than": line.verdict.target.than,
                "wanted": f"{line.row.sign} {line.verdict.target.ratio:g}",
                "ratio": line.verdict.ratio,
                "least": line.verdict.least,
                "most": line.verdict.most,
                "held": line.verdict.held,
            }
            for line in lines(answers)
        ],
    }
    (folder / "targets.json").write_text(json.dumps(content, indent=2) + "\n")
    (folder / "targets.svg").write_text(chart(list(lines(answers)), machine))


def chart(found: list[Line], machine: dict[str, str]) -> str:
    """An SVG: how far each target was passed, to the right, or missed, to the left,
    on a logarithmic scale."""
    parts: list[str] = []
    middle, y = NAMES + BAR / 2, 2 * STEP

    def text(x: float, words: str, style: str = "") -> None:
        parts.append(f'<text x="{x:.0f}" y="{y}" {style}>{escape(words)}</text>')

    text(STEP, "Targets: missed to the left, held to the right", 'font-weight="bold" font-size="15"')
    for line in found:
        y += STEP
        text(NAMES - 8, line.name, 'text-anchor="end"')
        reach = 1.0 if line.margin <= 0 else max(-1.0, min(1.0, log10(line.margin) / DECADES))
        left, width = min(middle, middle + reach * BAR / 2), max(abs(reach) * BAR / 2, 1)
        colour = HELD if line.verdict.held else MISSED
        parts.append(f'<rect x="{left:.1f}" y="{y - 12}" width="{width:.1f}" height="15" fill="{colour}"/>')
        text(NAMES + BAR + 8, f"{line.verdict.ratio:.3g} (wanted {line.wanted})")
    bottom = y + STEP / 2
    parts.append(f'<path d="M{middle} {2.5 * STEP}V{bottom}" stroke="#24292f"/>')
    y += 2 * STEP
    text(STEP, f"{machine['processor']}, {machine['date']}", 'fill="#57606a"')
    width, height = NAMES + BAR + FIGURES, y + STEP
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} '
        f'{height}"'
        ' font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#fff"/>'
    )
    return "\n".join([head, *parts, "</svg>\n"])
