"""How much is measured: by the full bench, and by the quick one, which only proves that the bench works."""

from __future__ import annotations

from typing import Final, NamedTuple


class Scale(NamedTuple):
    repetitions: int = 5
    seconds: int = 2
    """Seconds of each load. 350 loads must fit into 25 minutes; the median of five reduces the noise."""
    far_seconds: int = 3
    """Seconds of a load with a long round trip, where a window needs a second to grow to 64 MiB."""
    streams: tuple[int, ...] = (1, 8)
    connections: tuple[int, ...] = (1, 32, 256)
    answers: tuple[int, ...] = (64 << 10, 1 << 20)
    """The sizes of answers in bytes."""
    round_trips: tuple[float, ...] = (0.02, 0.1, 0.2)
    clusters: int = 100
    idle_seconds: int = 20
    """Twice the interval of probes, so that their CPU time is included."""


QUICK: Final = Scale(
    repetitions=1,
    seconds=1,
    far_seconds=1,
    streams=(1,),
    connections=(32,),
    answers=(64 << 10,),
    round_trips=(0.02,),
    clusters=10,
    idle_seconds=1,
)
"""Proves that the bench works; its figures mean nothing."""
