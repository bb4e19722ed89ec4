"""Measures the yardstick next to each part, because a machine's speed may change within a run."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.parts import yardstick

ROUNDS = 500


def _least() -> float:
    """The yardstick's shortest time now, in seconds."""
    return min(_once() for _ in range(ROUNDS))


def _once() -> float:
    began = perf_counter()
    yardstick.work()
    return perf_counter() - began


@pytest.fixture(autouse=True)
def _beside(benchmark: BenchmarkFixture) -> Iterator[None]:
    before = _least()
    yield
    benchmark.extra_info["yardstick"] = min(before, _least())
