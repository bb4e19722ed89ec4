"""Faults of a gateway that is dialled on demand.

A client that comes before the next dial is due is reset at once, and not held.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from tests.faults.row import RESET, Row
from tests.faults.test_network import reset
from tests.faults.test_sshd import LINK_DOWN, LINK_LOST, kill, start

pytestmark = pytest.mark.sshd

ON_DEMAND = {"dial": "on_demand", "connections": 1}
KEEP_UP = {"keep_up": True}
"""With clients that come and go, a link that is kept for probes counts as it does at other gateways."""

ROWS = (
    Row(
        name="on demand: sshd killed under its clients",
        breaks=kill,
        mends=start,
        clients=RESET,
        gateway="unreachable",
        lost="link_lost",
        results=LINK_LOST | LINK_DOWN,
        edge=ON_DEMAND,
        probes=KEEP_UP,
    ),
    Row(
        name="on demand: TCP reset of the link",
        breaks=reset,
        clients=RESET,
        gateway="link_lost",
        lost="link_lost",
        results=LINK_LOST,
        may=LINK_DOWN,
        is_through_relay=True,
        edge=ON_DEMAND,
        probes=KEEP_UP,
    ),
)


async def test_row(proven: Callable[[], Awaitable[None]]) -> None:
    await proven()
