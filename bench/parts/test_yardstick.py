"""Nothing of ours: how fast is this machine today? Other parts are compared by it."""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture


def test_yardstick(benchmark: BenchmarkFixture) -> None:
    """What an interpreter does all day: calls, attributes, slices, a dictionary."""
    view, table = memoryview(bytearray(4096)), dict.fromkeys(range(64), 0)

    def work() -> int:
        for number in range(200):
            table[number % 64] += len(view[number : number + 16])
        return len(table)

    assert benchmark(work) == 64
