"""A hostile gateway among the daemon's gateways: it floods, never ends an exchange, or sends on closed
channels. Clients of other gateways must not notice it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Final

import pytest

from tests.faults.bed import Bed
from tests.faults.row import Hits, Row, Step
from tests.support.rogue import Rogue
from tests.support.serving import closed

pytestmark = [pytest.mark.sshd, pytest.mark.gcc]

VISITS: Final = 20
SERVED_S: Final = 60.0
PATIENT: Final = {"keepalive": {"interval": "700ms", "max_missed": 10}}
"""Keys of the gateway beside the hostile one: its link is lost after seven seconds without an answer. A busy
machine may stop the daemon or an sshd for two.
"""


async def meet(bed: Bed, kind: str, **more: str) -> Rogue:
    """Start a hostile gateway of that kind, and add it to the configuration with a cluster, whose probes open
    channels on it. `more` are keys of the gateway.
    """
    rogue = bed.rogue = Rogue(
        kind, bed.folder / f"rogue {bed.daemon.metric('kubemux_config_reloads_total'):g}"
    )
    await asyncio.to_thread(rogue.start)
    bed.also_stop(rogue)
    content = json.loads(bed.good)
    content["gateways"]["rogue"] = {**rogue.section, **more}
    content["clusters"]["rogue"] = bed.rogue_cluster("rogue")
    bed.daemon.config.write_text(json.dumps(content))
    await bed.reload()
    return rogue


def floods(kind: str) -> Step:
    """Wait until the gateway has sent 100,000 messages; it sends on until the row ends."""

    async def step(bed: Bed) -> None:
        rogue = await meet(bed, kind)
        await asyncio.to_thread(rogue.next_line)

    return step


async def floods_before_login(bed: Bed) -> None:
    """The gateway floods instead of answering the login, until kubemux gives up the dial."""

    def given_up() -> int:
        entries = bed.daemon.events()
        wanted = ("rogue", "connect_timeout")
        return sum((entry.get("gateway"), entry.get("reason")) == wanted for entry in entries)

    before = given_up()
    await meet(bed, "ignores before login")
    await bed.wait_for("the dial is given up", lambda: given_up() > before)


async def never_reads(bed: Bed) -> None:
    """The gateway sends requests and reads no answers. The daemon stops reading when its answers are stuck,
    so that its queue of answers stays bounded.
    """
    rogue = await meet(bed, "unread")
    await asyncio.to_thread(rogue.next_line)


async def never_ends(bed: Bed) -> None:
    await meet(bed, "keys")
    await bed.wait_reason("protocol_error", of="rogue")


async def speaks_late(bed: Bed) -> None:
    """The gateway sends on closed channels. Clients are still served, one after another, on its one link."""
    await meet(bed, "late", connect_timeout="10s")
    for _ in range(VISITS):
        reader, writer = await asyncio.open_connection("127.0.0.1", bed.ports["rogue"])
        try:
            writer.write(b"1\n")
            async with asyncio.timeout(SERVED_S):
                assert len(await reader.readexactly(1)) == 1
        finally:
            await closed(writer)
    connects = bed.daemon.metric("kubemux_gateway_connects_total", gateway="rogue", result="ok")
    assert connects == 1, "the link was never lost"


async def leave(bed: Bed) -> None:
    """Remove the hostile gateway from the configuration, and stop it."""
    bed.daemon.config.write_bytes(bed.good)
    await bed.reload()
    assert bed.rogue
    await asyncio.to_thread(bed.rogue.stop)


def row(name: str, breaks: Step) -> Row:
    return Row(
        name=name,
        hits=Hits.GATEWAY,
        breaks=breaks,
        mends=leave,
        edge=PATIENT,
        has_shim=True,
        has_short_turns=True,
    )


ROWS = (
    row("another gateway floods: global requests", floods("global requests")),
    row("another gateway floods: channel requests", floods("channel requests")),
    row("another gateway floods before the login", floods_before_login),
    row("another gateway reads no answers", never_reads),
    row("another gateway exchanges keys without end", never_ends),
    row("another gateway speaks on channels it has closed", speaks_late),
)


async def test_row(proven: Callable[[], Awaitable[None]]) -> None:
    await proven()
