"""Faults of the daemon's surroundings: its resolver, its clock, its disks."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.faults.bed import Bed
from tests.faults.row import REFUSED, RESET, Row, Step, nothing
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
    """Make the resolver forget the name, and reset the links, because only a new link needs the name."""
    bed.shim.resolve("")
    await reset(bed)


async def know_name(bed: Bed) -> None:
    bed.shim.resolve(bed.path.endpoint.host)


async def silence_resolver(bed: Bed) -> None:
    """Let each lookup hang, as when the name servers do not answer."""
    bed.shim.resolve(SILENCE)
    await reset(bed)


async def lose_disk(bed: Bed) -> None:
    """Let the key's disk hang, and reset the links, because only a new link needs the key."""
    bed.shim.hang(bed.edge.identity.parent)
    await reset(bed)


async def find_disk(bed: Bed) -> None:
    bed.shim.hang(None)


async def move_name(bed: Bed) -> None:
    """Let the name resolve to another sshd (same port, another address), which would accept the key."""
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
        bed.daemon.signal(signal.SIGHUP)  # a reload without changes makes the daemon report its wall clock
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
        may_see=REFUSED,
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
        may_see=REFUSED,
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
        may_see=REFUSED,
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
        may_see=REFUSED,
        gateway="host_key_changed",
        lost="link_lost",
        results=LINK_LOST,
        may=LINK_DOWN,
        edge={"host": NAME},
        is_through_relay=True,
        has_shim=True,
    ),
    # The tests' certificates are valid from one hour ago, for 24 hours.
    Row(name="clock jumps 12 hours ahead, and back", breaks=turn(12 * HOUR), mends=turn(0), has_shim=True),
    Row(
        name="clock jumps half an hour back, and ahead", breaks=turn(-HOUR // 2), mends=turn(0), has_shim=True
    ),
    Row(
        name="disk full for logs",
        breaks=reset,
        mends=nothing,
        clients=RESET,
        # No `gateway`: nobody reads the log, and status has the reason only until the next link is up.
        lost="link_lost",
        results=LINK_LOST,
        is_through_relay=True,
        log=Path("/dev/full"),
    ),
)


async def test_row(proven: Callable[[], Awaitable[None]]) -> None:
    await proven()
