"""Each module's ROWS, on both data planes or its own PLANES."""

from __future__ import annotations

import json
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
        metafunc.parametrize("row", metafunc.module.ROWS, ids=str)
        metafunc.parametrize("plane", getattr(metafunc.module, "PLANES", PLANES))


@pytest.fixture(scope="session", autouse=True)
def _descriptors() -> Iterator[None]:
    """A thousand connections have four ends here: ours, the daemon's, sshd's. Those two inherit the limit."""
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
    """Call it to run the row; what was found goes into the table."""

    async def run() -> None:
        finding = await prove(row, tmp_path, certificates, plane=plane)
        record_property(PROPERTY, json.dumps(finding.record()))

    return run
