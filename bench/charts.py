"""Draws all charts, as SVG: bars for an answer, met and missed targets, a run over time.

`python -m bench.charts [FOLDER]` draws the charts of a folder again from its JSON. matplotlib is imported
only when a chart is drawn, so that a measuring process does not load it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from math import log10
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

from bench.report import read_answer
from bench.result import KUBEMUX, Answer, Line, show
from bench.targets import read_targets

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.typing import RcKeyType

RESULTS: Final = Path(__file__).with_name("results")
TARGETS: Final = "targets"

OURS, OTHERS, INK, PALE, PANEL, MARK = "#1f6feb", "#9aa4b2", "#24292f", "#57606a", "#f6f8fa", "#bf8700"
MET, MISSED = "#2da44e", "#cf222e"
_WIDTH, _LINE, _EDGE = 11, 0.25, 0.5
"""Inches: a chart's width, the height of a line of text, the space for a title above and a source below."""
_STYLE: Final[dict[RcKeyType, object]] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "kubemux",  # the same data, the same file
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana"],  # the first comes with matplotlib
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": PALE,
    "xtick.color": INK,
    "ytick.color": INK,
}


@contextmanager
def chart(path: Path, title: str, source: str, lines: float) -> Iterator[Figure]:
    """An SVG at `path`, as high as `lines` lines of text. It is opaque, because the page behind it may be
    dark.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        height = round((lines * _LINE + 2 * _EDGE) * 72) / 72  # whole points: no seam at the edge
        figure = Figure(figsize=(_WIDTH, height), facecolor="white")
        figure.text(0.02, 1 - 0.3 / height, title, fontsize=12, fontweight="bold", va="center")
        figure.text(0.02, 0.2 / height, source, color=PALE, va="center")
        yield figure
        figure.savefig(path, format="svg", metadata={"Date": None})


def draw_answer(answer: Answer, machine: Mapping[str, str], path: Path) -> None:
    """Draw the medians as bars. Each measure has its own scale. A thin line goes from the smallest to the
    largest value.
    """
    bars = [[column for column in answer.columns if row.samples.get(column)] for row in answer.rows]
    heights = [len(columns) + 1.8 for columns in bars]
    with chart(path, answer.title, _source(machine), sum(heights)) as figure:
        for row, columns, axes in zip(answer.rows, bars, _panels(figure, heights, left=1.7), strict=True):
            samples = [row.samples[column] for column in columns]
            middles = [median(each) for each in samples]
            most = max(max(each) for each in samples) or 1.0
            better = "more" if row.more_is_better else "less"
            axes.set_title(
                f"{row.name}, {row.unit} ({better} is better)", loc="left", fontsize=9, fontweight="bold"
            )
            colours = [OURS if column == KUBEMUX else OTHERS for column in columns]
            axes.barh(columns, middles, height=0.75, color=colours)
            axes.hlines(
                columns, [min(each) for each in samples], [max(each) for each in samples], colors=INK, lw=1
            )
            for column, each, middle in zip(columns, samples, middles, strict=True):
                axes.annotate(
                    show(middle), (max(each), column), (6, 0), textcoords="offset points", va="center"
                )
            axes.set_xlim(0, most * 1.15)
            axes.set_ylim(len(columns) - 0.4, -0.6)
            axes.set_xticks([])


def draw_targets(lines: Sequence[Line], machine: Mapping[str, str], path: Path) -> None:
    """Draw a bar for each target on a logarithmic scale: to the right if it was met, else to the left."""
    title = "Targets: missed to the left, met to the right"
    height = 1.5 * len(lines) + 1  # a name has two lines: the question and the measure
    with chart(path, title, _source(machine), height) as figure:
        (axes,) = _panels(figure, [height], left=4.3, right=3.8)
        reach = [1.0 if line.margin <= 0 else max(-1.0, min(1.0, log10(line.margin))) for line in lines]
        colours = [MET if line.verdict.met else MISSED for line in lines]
        axes.barh(range(len(lines)), reach, height=0.7, color=colours)
        axes.axvline(0, color=INK, lw=1)
        axes.spines["left"].set_visible(False)
        axes.set_yticks([])
        for number, line in enumerate(lines):
            question, _, measure = line.name.rpartition(": ")
            words = f"{line.verdict.ratio:.3g}, {line.word}: wanted {line.wanted}"
            for text, side, shift in (
                (question, -1, (-6, 6)),
                (measure, -1, (-6, -6)),
                (words, 1, (6, 0)),
            ):
                axes.annotate(
                    text,
                    (side, number),
                    shift,
                    textcoords="offset points",
                    ha="right" if side < 0 else "left",
                    va="center",
                    annotation_clip=False,
                )
        axes.set_xlim(-1, 1)
        axes.set_xticks([-1, 0, 1], ["10 times worse", "as wanted", "10 times better"])
        axes.tick_params(axis="x", labelsize=8, colors=PALE)
        axes.set_ylim(len(lines) - 0.4, -0.6)


def draw_run(
    title: str,
    seconds: Sequence[float],
    values: Mapping[str, Sequence[float]],
    marks: Sequence[tuple[float, str]],
    path: Path,
) -> None:
    """Draw a daemon's resources over time, one panel for each. `marks` has the time and the name of faults:
    each is a vertical line, and the last panel names them.
    """
    faults = list(dict.fromkeys(name for _, name in marks))
    heights = [6.0] * len(values) + [len(faults) + 1.0] * bool(faults)
    end = max([*seconds, *(at for at, _ in marks), 1.0]) / 60
    with chart(
        path, title, "minutes since the beginning; a vertical line is a fault", sum(heights)
    ) as figure:
        panels = _panels(figure, heights, left=3.6)
        for (name, each), axes in zip(values.items(), panels, strict=False):
            axes.set_title(name, loc="left", fontsize=9, fontweight="bold")
            axes.vlines(
                [at / 60 for at, _ in marks], 0, 1, transform=axes.get_xaxis_transform(), color=MARK, lw=0.4
            )
            axes.plot([at / 60 for at in seconds], each, color=OURS, lw=1.5)
            axes.set_ylim(0, max([*each, 1.0]) * 1.1)
        if faults:
            axes = panels[-1]
            axes.set_title("faults", loc="left", fontsize=9, fontweight="bold")
            axes.scatter(
                [at / 60 for at, _ in marks], [faults.index(name) for _, name in marks], color=MARK, s=12
            )
            axes.set_yticks(range(len(faults)), faults)
            axes.set_ylim(len(faults) - 0.4, -0.6)
        for axes in panels:
            axes.set_facecolor(PANEL)
            axes.tick_params(labelbottom=axes is panels[-1])
            axes.set_xlim(0, end)


def _panels(figure: Figure, heights: Sequence[float], *, left: float, right: float = 0.4) -> list[Axes]:
    """Axes from the top down, `heights` lines high with their titles; `left` and `right` are inches."""
    width, height = figure.get_size_inches()
    found = []
    for high, above in zip(heights, accumulate(heights), strict=True):
        bottom = height - _EDGE - above * _LINE + 0.1
        axes = figure.add_axes(
            (left / width, bottom / height, (width - left - right) / width, (high - 1.2) * _LINE / height)
        )
        axes.tick_params(length=0)
        axes.spines[["top", "right", "bottom"]].set_visible(False)
        found.append(axes)
    return found


def _source(machine: Mapping[str, str]) -> str:
    return f"{machine['processor']}, {machine['date']}"


def draw_folder(folder: Path) -> None:
    """Draw the chart of every JSON file in `folder`, beside the file."""
    for path in sorted(folder.glob("*.json")):
        if path.stem == TARGETS:
            draw_targets(*read_targets(path), path.with_suffix(".svg"))
        else:
            draw_answer(*read_answer(path), path.with_suffix(".svg"))


if __name__ == "__main__":
    draw_folder(Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS)
