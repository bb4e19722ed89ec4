"""Measures the yardstick next to each part, because a machine's speed may change within a run.

The log is the daemon's: one line of JSON for each connection, to a file that keeps nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.parts import yardstick
from proxy.runtime import logging

ROUNDS = 500


def _least() -> float:
    """The yardstick's shortest time now, in seconds."""
    return min(_once() for _ in range(ROUNDS))


def _once() -> float:
    began = perf_counter()
    yardstick.work()
    return perf_counter() - began


@pytest.fixture(autouse=True, scope="session")
def _log() -> Iterator[None]:
    with Path(os.devnull).open("w") as nowhere:
        logging.configure("json", "info", nowhere)
        yield


@pytest.fixture(autouse=True)
def _beside(benchmark: BenchmarkFixture) -> Iterator[None]:
    before = _least()
    yield
    benchmark.extra_info["yardstick"] = min(before, _least())
