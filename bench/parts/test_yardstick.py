"""The yardstick itself: what it was when the baseline was kept."""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from bench.parts import yardstick


def test_yardstick(benchmark: BenchmarkFixture) -> None:
    assert benchmark(yardstick.work) == 64
