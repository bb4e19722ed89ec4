"""The answer to a question: rows of samples by column, and the targets for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from statistics import median
from typing import Final, NamedTuple

DIRECT: Final = "direct"
HAPROXY: Final = "haproxy, plain TCP"
SSH: Final = "ssh -L"
NODELAY: Final = "ssh -L, nodelay sshd"
DYNAMIC: Final = "ssh -D"
DYNAMIC_NODELAY: Final = "ssh -D, nodelay sshd"
REMOTE: Final = "ssh -R"
ASYNCSSH: Final = "asyncssh"
BY_GATEWAY: Final = "kubemux, gateway"
SOCKS_SITE: Final = "kubemux, dynamic site"
KUBEMUX: Final = "kubemux"
COLUMNS: Final = (
    DIRECT,
    HAPROXY,
    SSH,
    NODELAY,
    DYNAMIC,
    DYNAMIC_NODELAY,
    REMOTE,
    ASYNCSSH,
    BY_GATEWAY,
    SOCKS_SITE,
    KUBEMUX,
)


class Target(NamedTuple):
    """A target for kubemux's median divided by that of another column: at least `ratio` if more is better,
    otherwise at most.
    """

    than: str
    ratio: float


class Verdict(NamedTuple):
    """A target, the ratio of the medians, and the smallest and the largest ratio of a repetition."""

    target: Target
    ratio: float
    least: float
    most: float
    met: bool


@dataclass(slots=True)
class Row:
    """One measure. `samples` has the value of each repetition, for each column that has this measure."""

    name: str
    unit: str
    more_is_better: bool = True
    targets: tuple[Target, ...] = ()
    samples: dict[str, list[float]] = field(default_factory=dict)

    def add(self, column: str, value: float | None) -> None:
        """Add the value of one repetition. None is ignored: a column without a process has no CPU time."""
        if value is not None:
            self.samples.setdefault(column, []).append(value)

    @property
    def sign(self) -> str:
        """The comparison of a ratio with its target: `>=` or `<=`."""
        return ">=" if self.more_is_better else "<="

    def verdicts(self) -> list[Verdict]:
        """Compare each target with the ratio of the medians.

        The smallest and largest ratio are those of repetitions: their columns were measured side by side.
        """
        found = []
        for target in self.targets:
            ours, theirs = self.samples[KUBEMUX], self.samples[target.than]
            ratio = median(ours) / median(theirs)
            each = [mine / other if other else inf for mine, other in zip(ours, theirs, strict=True)]
            met = ratio >= target.ratio if self.more_is_better else ratio <= target.ratio
            found.append(Verdict(target, ratio, min(each), max(each), met))
        return found


class Line(NamedTuple):
    """One target of one row. `name` is its full name. `sign` is `>=` if more is better, otherwise `<=`."""

    name: str
    sign: str
    verdict: Verdict

    @property
    def margin(self) -> float:
        """The factor by which the target was met (above 1) or missed (below 1)."""
        margin = self.verdict.ratio / self.verdict.target.ratio
        return margin if self.sign == ">=" or not margin else 1 / margin

    @property
    def wanted(self) -> str:
        """The target as text: `>= 1.25 x ssh -L`."""
        return f"{self.sign} {self.verdict.target.ratio:g} x {self.verdict.target.than}"

    @property
    def word(self) -> str:
        """The result in one word."""
        return "met" if self.verdict.met else "missed"


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one question.

    `name` is the stem of its files. `notes` say how it was measured, and what limits the figures.
    """

    name: str
    title: str
    notes: str
    rows: tuple[Row, ...]

    @property
    def columns(self) -> list[str]:
        """The columns with a sample, in the order of `COLUMNS`."""
        return [column for column in COLUMNS if any(column in row.samples for row in self.rows)]


def show(value: float) -> str:
    """Three significant digits: 0.284, 38.6, 1,240."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
