"""What can happen to what the daemon lives on: its resolver, its clock, the disk for its log."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.faults.bed import Bed
from tests.faults.row import RESET, Row, Step, nothing
from tests.support.shim import NAME, SILENCE
from tests.support.sshd import Sshd

pytestmark = [pytest.mark.sshd, pytest.mark.gcc]

LINK_LOST = frozenset({"link_lost"})
LINK_DOWN = frozenset({"link_down"})
ELSEWHERE = "127.0.0.2"
HOUR = 3600


async def reset(bed: Bed) -> None:
    await bed.path.disconnect(hard=True)


async def forget_name(bed: Bed) -> None:
    """The resolver loses the name, then the links are lost: those that are up need no name."""
    bed.shim.resolve("")
    await reset(bed)


async def know_name(bed: Bed) -> None:
    bed.shim.resolve(bed.path.endpoint.host)


async def silence_resolver(bed: Bed) -> None:
    """As when its servers are gone: each lookup hangs."""
    bed.shim.resolve(SILENCE)
    await reset(bed)


async def lose_disk(bed: Bed) -> None:
    """Where the gateway's key is; then the links are lost: those that are up need no key."""
    bed.shim.hang(bed.edge.identity.parent)
    await reset(bed)


async def find_disk(bed: Bed) -> None:
    bed.shim.hang(None)


async def move_name(bed: Bed) -> None:
    """The name leads to another sshd, on the same port of another address, that would take our key."""
    other = Sshd(bed.folder / "elsewhere")
    other.host, other.port = ELSEWHERE, bed.path.endpoint.port
    other.authorize(bed.edge.identity)
    await asyncio.to_thread(other.start)
    bed.also_stop(other)
    bed.shim.resolve(ELSEWHERE)
    await reset(bed)


async def move_name_back(bed: Bed) -> None:
    await know_name(bed)
    await bed.reconnect()


def turn(seconds: int) -> Step:
    async def step(bed: Bed) -> None:
        bed.shim.turn_clock(seconds)
        bed.daemon.signal(signal.SIGHUP)  # an idle reload shows what the daemon takes for now
        name = "kubemux_config_last_reload_success_timestamp_seconds"
        await bed.wait_for(
            "the clock was turned", lambda: abs(bed.daemon.metric(name) - time.time() - seconds) < HOUR // 60
        )

    return step


ROWS = (
    Row(
        name="gateway's name stops resolving",
        breaks=forget_name,
        mends=know_name,
        clients=RESET,
        gateway="unresolvable",
        lost="link_lost",
        results=LINK_LOST,
        may=LINK_DOWN,
        edge={"host": NAME},
        is_through_relay=True,
        has_shim=True,
    ),
    Row(
        name="resolver does not answer",
        breaks=silence_resolver,
        mends=know_name,
        clients=RESET,
        gateway="unresolvable",
        lost="link_lost",
        results=LINK_LOST,
        may=LINK_DOWN,
        edge={"host": NAME, "connect_timeout": "1s"},
        is_through_relay=True,
        has_shim=True,
    ),
    Row(
        name="disk with the gateway's key hangs",
        breaks=lose_disk,
        mends=find_disk,
        clients=RESET,
        gateway="credentials_unusable",
        lost="link_lost",
        results=LINK_LOST,
        may=LINK_DOWN,
        edge={"connect_timeout": "1s"},
        is_through_relay=True,
        has_shim=True,
    ),
    Row(
        name="gateway's name resolves elsewhere",
        breaks=move_name,
        mends=move_name_back,
        clients=RESET,
        gateway="host_key_changed",
        lost="link_lost",
        results=LINK_LOST,
        may=LINK_DOWN,
        edge={"host": NAME},
        is_through_relay=True,
        has_shim=True,
    ),
    # The certificates of these tests are valid from an hour ago, for 24 hours.
    Row(name="clock jumps 12 hours ahead, and back", breaks=turn(12 * HOUR), mends=turn(0), has_shim=True),
    Row(
        name="clock jumps half an hour back, and ahead", breaks=turn(-HOUR // 2), mends=turn(0), has_shim=True
    ),
    Row(
        name="disk full for logs",
        breaks=reset,
        mends=nothing,
        clients=RESET,
        gateway="link_lost",
        lost="link_lost",
        results=LINK_LOST,
        is_through_relay=True,
        log=Path("/dev/full"),
    ),
)


async def test_row(proven: Callable[[], Awaitable[None]]) -> None:
    await proven()
