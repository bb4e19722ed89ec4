"""The kinds of metric families: each knows how to read its samples from records.

It takes 12 ms to make and render one family of 100 clusters with 17 buckets, and all clients would wait. So a
scrape first copies all records, in one turn of the event loop, and then makes metrics of a few copies at a
time (`pieces`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, Generic, Protocol, TypeVar

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from proxy.metrics.records import Histogram

COUNTER: Final = CounterMetricFamily
GAUGE: Final = GaugeMetricFamily

Numbers = Sequence[tuple[tuple[str, ...], float]]
"""Samples of one record: the values of the labels after the first, and the number."""

Record = TypeVar("Record", contravariant=True)
Word = TypeVar("Word", bound=str)


class Family(Protocol[Record]):
    """Describes one metric family, and how to read its samples from the records."""

    size: int
    """How many records one piece has. It takes about a millisecond to make and render them."""

    def metric(self, records: Sequence[tuple[str, Record]]) -> Metric:
        """The samples of these records, each given with the name of its cluster or gateway."""


class Plain(Generic[Record]):
    """A family of counters or gauges."""

    size = 60

    def __init__(
        self,
        kind: type[CounterMetricFamily | GaugeMetricFamily],
        name: str,
        text: str,
        labels: tuple[str, ...],
        read: Callable[[Record], Numbers],
    ) -> None:
        self._kind, self._name, self._text, self._labels, self._read = (
            kind,
            f"kubemux_{name}",
            text,
            labels,
            read,
        )

    def metric(self, records: Sequence[tuple[str, Record]]) -> Metric:
        family = self._kind(self._name, self._text, labels=self._labels)
        for owner, record in records:
            for values, number in self._read(record):
                family.add_metric((owner, *values), number)
        return family


class Timed(Generic[Record]):
    """A family of histograms of seconds."""

    size = 12

    def __init__(self, name: str, text: str, label: str, read: Callable[[Record], Histogram]) -> None:
        self._name, self._text, self._label, self._read = f"kubemux_{name}_seconds", text, label, read

    def metric(self, records: Sequence[tuple[str, Record]]) -> Metric:
        family = HistogramMetricFamily(self._name, self._text, labels=(self._label,))
        for owner, record in records:
            histogram = self._read(record)
            family.add_metric((owner,), histogram.buckets(), histogram.sum)
        return family


def pieces(family: Family[Record], records: Sequence[tuple[str, Record]]) -> Iterator[Metric]:
    """The family in pieces: metrics of the same name. There is at least one piece, even without samples."""
    for start in range(0, max(1, len(records)), family.size):
        yield family.metric(records[start : start + family.size])


def known(number: float | None) -> Numbers:
    return () if number is None else (((), number),)


def items(numbers: Mapping[Word, float]) -> Numbers:
    return [((value,), number) for value, number in numbers.items()]
