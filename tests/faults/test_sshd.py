"""What can happen to a gateway's sshd."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.faults.bed import Bed
from tests.faults.row import RESET, Row

pytestmark = pytest.mark.sshd


async def kill(bed: Bed) -> None:
    await asyncio.to_thread(bed.edge.stop)


async def start(bed: Bed) -> None:
    await asyncio.to_thread(bed.edge.start)


ROWS = (
    Row(
        name="sshd killed",
        breaks=kill,
        mends=start,
        clients=RESET,
        gateway="unreachable",
        lost="link_lost",
        results=frozenset({"link_lost"}),
        may=frozenset({"link_down"}),
    ),
)


async def test_row(proven: Callable[[], Awaitable[None]]) -> None:
    await proven()
