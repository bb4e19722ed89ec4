"""Counters, gauges and histograms, and how Prometheus reads them: plain values, one writer, no locks.

The text format 0.0.4 (https://prometheus.io/docs/instrumenting/exposition_formats/) and OpenMetrics 1.0
(https://prometheus.io/docs/specs/om/open_metrics_spec/). Everything is written and read in the event loop.

Ours, and not prometheus-client's, because of memory: a lock and a dictionary for each of 10,000 values, and a scrape that first
makes an object of each sample, were 7 MB of the daemon with 100 gateways and clusters.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

Labels = tuple[str, ...]
Pairs = tuple[tuple[str, str], ...]


class Sample(NamedTuple):
    """One line: what follows the family's name, labels, value."""

    suffix: str
    labels: Pairs
    value: float


class Family(Protocol):
    """What a registry holds: one metric with all its series."""

    name: str
    """Without `_total`."""
    text: str
    kind: str

    def samples(self) -> Iterable[Sample]:
        """The series as they are now."""


class Registry:
    """The metrics of one daemon, in the order they were made."""

    def __init__(self) -> None:
        self.families: list[Family] = []

    def get_sample_value(self, name: str, labels: Mapping[str, str] | None = None) -> float | None:
        """The value of one series, `name` with its suffix; None if there is none."""
        for family in self.families:
            for suffix, pairs, value in family.samples():
                if family.name + suffix == name and dict(pairs) == (labels or {}):
                    return value
        return None


class Counter:
    """Only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1) -> None:
        """Add."""
        self.value += amount

    def samples(self) -> Iterator[Sample]:
        """One."""
        yield Sample("_total", (), self.value)


class Gauge:
    """Goes up and down; or is what a function says."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float | Callable[[], float] = 0.0

    def set(self, value: float) -> None:
        """Replace the value."""
        self.value = value

    def set_to_current_time(self) -> None:
        """Unix time."""
        self.value = time.time()

    def set_function(self, function: Callable[[], float]) -> None:
        """Ask `function` at each scrape."""
        self.value = function

    def samples(self) -> Iterator[Sample]:
        """One."""
        yield Sample("", (), self.value() if callable(self.value) else self.value)


class Histogram:
    """How many observations were at most so much."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def samples(self) -> Iterator[Sample]:
        """One for each bucket, their number and sum."""
        total = 0
        for bound, total in zip((*map(str, self._bounds), "+Inf"), accumulate(self._counts), strict=True):
            yield Sample("_bucket", (("le", bound),), total)
        yield Sample("_count", (), total)
        yield Sample("_sum", (), self._sum)


class _Child(Protocol):
    def samples(self) -> Iterator[Sample]: ...


Child = TypeVar("Child", bound=_Child)


class Labelled(Generic[Child]):
    """One metric: a child for each set of label values, made at first use."""

    def __init__(self, name: str, text: str, kind: str, labels: Labels, make: Callable[[], Child]) -> None:
        self.name = name
        self.text = text
        self.kind = kind
        self._labels = labels
        self._make = make
        self._children: dict[Labels, Child] = {}

    def labels(self, *values: str) -> Child:
        """The child for these values, in the order of the labels. Raises ValueError if there are more or fewer of them."""
        if (child := self._children.get(values)) is None:
            if len(values) != len(self._labels):
                raise ValueError(f"{self.name} has the labels {self._labels}, not {values}")
            child = self._children[values] = self._make()
        return child

    def remove(self, *values: str) -> None:
        """Drop the child for these values, if there is one."""
        self._children.pop(values, None)

    def forget(self, label: str, value: str) -> None:
        """Drop the children of which `label`, if there is such a label, is `value`."""
        if label in self._labels:
            place = self._labels.index(label)
            self._children = {values: child for values, child in self._children.items() if values[place] != value}

    def samples(self) -> Iterator[Sample]:
        """Every child's."""
        for values, child in self._children.items():
            yield from labelled(tuple(zip(self._labels, values, strict=True)), child)


def labelled(labels: Pairs, child: _Child) -> Iterator[Sample]:
    """The samples of one child under its labels."""
    for suffix, further, value in child.samples():
        yield Sample(suffix, labels + further, value)


class Computed:
    """One metric whose samples `read` makes at each scrape."""

    def __init__(self, name: str, text: str, kind: str, read: Callable[[], Iterable[Sample]]) -> None:
        self.name = name
        self.text = text
        self.kind = kind
        self.samples = read


_LABEL: Final = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
_HELP: Final = str.maketrans({"\\": r"\\", "\n": r"\n"})
_WORDS: Final = {"inf": "+Inf", "-inf": "-Inf", "nan": "NaN"}


def render(family: Family, *, openmetrics: bool) -> str:
    """The family's lines. The end of OpenMetrics, `# EOF`, is the caller's."""
    # In the text format a counter is known by the name that its samples have.
    name = f"{family.name}_total" if family.kind == "counter" and not openmetrics else family.name
    lines = [f"# HELP {name} {family.text.translate(_LABEL if openmetrics else _HELP)}", f"# TYPE {name} {family.kind}"]
    for suffix, labels, value in family.samples():
        within = ",".join([f'{label}="{text.translate(_LABEL)}"' for label, text in labels])
        number = repr(float(value))
        lines.append(f"{family.name}{suffix}{f'{{{within}}}' if within else ''} {_WORDS.get(number, number)}")
    lines.append("")
    return "\n".join(lines)
