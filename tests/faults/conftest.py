"""Makes a test of each of a module's ROWS. With BOTH_PLANES=1 (`make faults`) each row runs on both data
planes, or on the module's own PLANES.

Otherwise each row runs on one plane, to save time: rows take a quarter of the suite's. The random seed
decides which plane; an even and an odd seed together cover both.
"""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.proof import prove
from tests.faults.row import Row
from tests.faults.table import PROPERTY
from tests.support.tls import Certificates

DESCRIPTORS = 8192
PLANES = ("native", "asyncssh")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "row" in metafunc.fixturenames:
        rows, planes = metafunc.module.ROWS, getattr(metafunc.module, "PLANES", PLANES)
        seed = metafunc.config.getoption("randomly_seed", None)
        if os.environ.get("BOTH_PLANES") == "1" or not isinstance(seed, int):
            pairs = [(row, plane) for row in rows for plane in planes]
        else:
            pairs = [(row, planes[(seed + index) % len(planes)]) for index, row in enumerate(rows)]
        metafunc.parametrize(("row", "plane"), pairs, ids=[f"{row}-{plane}" for row, plane in pairs])


@pytest.fixture(scope="session", autouse=True)
def _descriptors() -> Iterator[None]:
    """Raise the limit of descriptors, which the daemon and sshd inherit: a row makes 1,000 connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, DESCRIPTORS)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def proven(
    row: Row,
    plane: str,
    tmp_path: Path,
    certificates: Certificates,
    record_property: Callable[[str, object], None],
) -> Callable[[], Awaitable[None]]:
    """A function that runs the row, and puts the finding into the table."""

    async def run() -> None:
        finding = await prove(row, tmp_path, certificates, plane=plane)
        record_property(PROPERTY, json.dumps(finding.record()))

    return run
