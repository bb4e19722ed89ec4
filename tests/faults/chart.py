"""How a daemon's holdings went over time, as an SVG: one panel each, faults as marks beneath."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

WIDTH, PANEL, LEFT, TOP, GAP = 900, 150, 70, 50, 45
"""Pixels: of a panel, and around it."""
_COLOURS: Final = ("#1f6feb", "#8250df", "#1a7f37")


@dataclass(frozen=True, slots=True)
class Sample:
    """What there was `seconds` after the beginning."""

    seconds: float
    rss: int
    """Bytes."""
    descriptors: int
    tasks: int


def chart(title: str, samples: Sequence[Sample], marks: Sequence[tuple[float, str]]) -> str:
    """The SVG. `marks` are moments in seconds and what happened then, shown as a line with a tooltip."""
    end = max((sample.seconds for sample in samples), default=1.0)
    panels = (
        ("RSS, MB", [sample.rss / 1e6 for sample in samples]),
        ("descriptors", [float(sample.descriptors) for sample in samples]),
        ("tasks", [float(sample.tasks) for sample in samples]),
    )
    parts = [f'<text x="{LEFT}" y="28" font-weight="bold" font-size="15">{escape(title)}</text>']

    def x(seconds: float) -> float:
        return LEFT + seconds / end * WIDTH

    for number, (name, values) in enumerate(panels):
        top = TOP + number * (PANEL + GAP)
        bottom, largest = top + PANEL, max([*values, 1.0]) * 1.1
        line = " ".join(
            f"{x(sample.seconds):.1f},{bottom - value / largest * PANEL:.1f}"
            for sample, value in zip(samples, values, strict=True)
        )
        marked = "".join(
            f'<path d="M{x(at):.1f} {top}V{bottom}" stroke="#d4a72c" '
            f'opacity="0.45"><title>{escape(what)}</title></path>'
            for at, what in marks
        )
        parts += [
            f'<rect x="{LEFT}" y="{top}" width="{WIDTH}" height="{PANEL}" fill="#f6f8fa"/>{marked}',
            f'<text x="{LEFT}" y="{top - 6}">{name}</text>',
            f'<text x="{LEFT - 6}" y="{top + 10}" text-anchor="end">{largest:.0f}</text>',
            f'<text x="{LEFT - 6}" y="{bottom}" text-anchor="end">0</text>',
            f'<polyline points="{line}" fill="none" stroke="{_COLOURS[number]}" stroke-width="1.5"/>',
        ]
    height = TOP + len(panels) * (PANEL + GAP) + 20
    parts.append(
        f'<text x="{LEFT}" y="{height - 18}" fill="#57606a">{end / 60:.1f} minutes; a vertical line is a '
        "fault</text>"
    )
    width = LEFT + WIDTH + 30
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} '
        f'{height}"'
        ' font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#fff"/>'
    )
    return "\n".join([head, *parts, "</svg>\n"])
