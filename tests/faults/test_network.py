"""Faults of the network between kubemux and a gateway, and of the gateway's name."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.faults.bed import Bed
from tests.faults.row import REFUSED, RESET, Row, Step, nothing
from tests.faults.test_sshd import IMPATIENT, LINK_DOWN, LINK_LOST
from tests.support.faulty import Direction

pytestmark = pytest.mark.sshd


async def reset(bed: Bed) -> None:
    await bed.path.disconnect(hard=True)


async def forget(bed: Bed) -> None:
    bed.path.forget()


def corrupt(direction: Direction) -> Step:
    async def step(bed: Bed) -> None:
        bed.path.corrupt(direction)

    return step


def swallow(*directions: Direction) -> Step:
    async def step(bed: Bed) -> None:
        bed.path.stall(*directions)

    return step


async def flow(bed: Bed) -> None:
    bed.path.resume()


async def stutter(bed: Bed) -> None:
    """Stall both directions for 90 ms of every 300 ms."""

    async def stop_and_go() -> None:
        while True:
            bed.path.stall()
            await asyncio.sleep(0.09)
            bed.path.resume()
            await asyncio.sleep(0.21)

    bed.tasks.spawn(stop_and_go(), name="stutter")


async def flow_steadily(bed: Bed) -> None:
    await bed.tasks.close()
    bed.path.resume()


async def shake(bed: Bed) -> None:
    bed.path.jitter = 0.2


async def calm(bed: Bed) -> None:
    bed.path.jitter = 0.0


def black_hole(name: str, *directions: Direction) -> Row:
    return Row(
        name=f"black hole, {name}",
        breaks=swallow(*directions),
        mends=flow,
        clients=RESET,
        may_see=REFUSED,
        gateway="keepalive_timeout",
        lost="keepalive_timeout",
        results=frozenset({"keepalive_timeout"}),
        may=LINK_DOWN,
        edge=IMPATIENT,
        is_through_relay=True,
    )


def corrupted(direction: Direction) -> Row:
    """Flip one bit. The link is lost, none of its clients gets a wrong byte, and clients of the other link
    notice nothing.
    """
    reason = "protocol_error" if direction is Direction.TO_CLIENT else "link_lost"
    return Row(
        name=f"a bit flipped on its way {direction.value.replace('_', ' ')}",
        breaks=corrupt(direction),
        clients=RESET,
        is_partial=True,
        lost=reason,
        results=frozenset({reason}),
        is_through_relay=True,
    )


ROWS = (
    Row(
        name="TCP reset",
        breaks=reset,
        clients=RESET,
        gateway="link_lost",
        lost="link_lost",
        results=LINK_LOST,
        is_through_relay=True,
    ),
    black_hole("towards the gateway", Direction.TO_SERVER),
    black_hole("from the gateway", Direction.TO_CLIENT),
    black_hole("both ways"),
    Row(
        name="30 % stalls",
        breaks=stutter,
        mends=flow_steadily,
        edge={"keepalive": {"interval": "300ms", "max_missed": 20}},  # a stall takes longer on a busy machine
        is_through_relay=True,
    ),
    Row(name="200 ms jitter", breaks=shake, mends=calm, is_through_relay=True),
    corrupted(Direction.TO_SERVER),
    corrupted(Direction.TO_CLIENT),
    Row(
        name="half-open after the gateway's reboot",
        breaks=forget,
        mends=nothing,
        clients=RESET,
        gateway="link_lost",
        lost="link_lost",
        results=LINK_LOST,
        is_through_relay=True,
    ),
)


async def test_row(proven: Callable[[], Awaitable[None]]) -> None:
    await proven()
