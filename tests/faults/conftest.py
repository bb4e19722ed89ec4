"""Each module's ROWS, on both data planes."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.faults.proof import prove
from tests.faults.row import Row
from tests.faults.table import PROPERTY
from tests.support.tls import Certificates

PLANES = ("native", "asyncssh")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "row" in metafunc.fixturenames:
        metafunc.parametrize("row", metafunc.module.ROWS, ids=str)
    if "plane" in metafunc.fixturenames:
        metafunc.parametrize("plane", PLANES)


@pytest.fixture
def proven(
    row: Row, plane: str, tmp_path: Path, certificates: Certificates, record_property: Callable[[str, object], None]
) -> Callable[[], Awaitable[None]]:
    """Call it to run the row; what was found goes into the table."""

    async def run() -> None:
        finding = await prove(row, tmp_path, certificates, plane=plane)
        record_property(PROPERTY, json.dumps(finding.record()))

    return run
