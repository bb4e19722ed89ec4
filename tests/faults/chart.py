"""A chart of the resources that a daemon held over time: a panel for each, with the begin of each fault."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.charts import draw_run


@dataclass(frozen=True, slots=True)
class Sample:
    """The daemon's resources, `seconds` after the soak began."""

    seconds: float
    rss: int
    """Bytes."""
    descriptors: int
    tasks: int


def draw(title: str, samples: Sequence[Sample], marks: Sequence[tuple[float, str]], path: Path) -> None:
    """Write the SVG. `marks` are (seconds since the begin, name of the fault)."""
    values = {
        "RSS, MB": [sample.rss / 1e6 for sample in samples],
        "descriptors": [float(sample.descriptors) for sample in samples],
        "tasks": [float(sample.tasks) for sample in samples],
    }
    draw_run(title, [sample.seconds for sample in samples], values, marks, path)
