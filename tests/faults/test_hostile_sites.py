"""A hostile site beside another site: it floods, or answers garbage in place of SOCKS5."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import monotonic
from typing import Final

import pytest

from proxy.entries.ssh_entry import MOST_LINES, SELDOM_S
from tests.faults.bed import Bed
from tests.faults.row import Row, Step, nothing
from tests.faults.site_edge import RIVAL
from tests.faults.test_hostile import PATIENT
from tests.support.daemon import ROOT
from tests.support.rogue_site import ANSWERS
from tests.support.serving import closed

pytestmark = [pytest.mark.sshd, pytest.mark.gcc]

VISIT_S: Final = 60.0


class RogueSite:
    """The process of the hostile site."""

    def __init__(self, bed: Bed, kind: str) -> None:
        files = bed.site.files
        command = [sys.executable, "-m", "tests.support.rogue_site", kind, *map(str, files.listen)]
        command += [RIVAL, str(files.key(RIVAL)), str(files.known_hosts)]
        self._log = bed.folder / "rogue.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True
            )

    async def said(self) -> str:
        """The next line that it prints. Raises AssertionError if it ends without one."""
        assert self._process.stdout, "it was started with a pipe"
        line = (await asyncio.to_thread(self._process.stdout.readline)).strip()
        assert line, self._log.read_text()
        return line

    def stop(self) -> None:
        """Kill it. Idempotent."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()


async def meet(bed: Bed, kind: str) -> RogueSite:
    rogue = RogueSite(bed, kind)
    bed.also_stop(rogue)
    assert await rogue.said() == "registered"
    return rogue


def floods(kind: str) -> Step:
    async def step(bed: Bed) -> None:
        since = monotonic()
        rogue = await meet(bed, kind)
        assert await rogue.said() == "sent"
        await asyncio.to_thread(rogue.stop)
        told = bed.daemon.events("connection closed") + bed.daemon.events("connection refused")
        refused = [one for one in told if (one["caller"], one["reason"]) == (f"site:{RIVAL}", "unknown_name")]
        assert len(refused) <= MOST_LINES * (1 + (monotonic() - since) / SELDOM_S), refused[-1]

    return step


async def is_turned_away(port: int) -> bool:
    """Whether a client gets a reset or an end of file, and no byte. Raises TimeoutError."""
    with suppress(ConnectionResetError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            async with asyncio.timeout(VISIT_S):
                return not await reader.read(1)
        finally:
            await closed(writer)
    return True


async def answers(bed: Bed) -> None:
    """Each client of the hostile site is refused in time, and the link stays. A probe is the first client.

    The time is short only when the site is registered: before that, a starved site would lose its link.
    """
    rogue = await meet(bed, "answers")
    content = json.loads(bed.good)
    content["clusters"]["rogue"] = bed.rogue_cluster(RIVAL)
    content["sites"][RIVAL]["connect_timeout"] = "500ms"
    bed.daemon.config.write_text(json.dumps(content))
    await bed.reload()
    seen = {await rogue.said()}
    for _ in range(2 * len(ANSWERS)):
        assert await is_turned_away(bed.ports["rogue"])
        seen.add(await rogue.said())
    assert seen == set(ANSWERS)
    ended = bed.daemon.events("connection closed")
    results = {str(entry["reason"]) for entry in ended if entry["cluster"] == "rogue"}
    assert results <= {"channel_refused", "channel_failed", "timeout"}, results
    assert bed.daemon.metric("kubemux_gateway_connects_total", gateway=RIVAL, result="ok") == 1
    await asyncio.to_thread(rogue.stop)


async def forget(bed: Bed) -> None:
    bed.daemon.config.write_bytes(bed.good)
    await bed.reload()


def row(name: str, breaks: Step, *, mends: Step = nothing) -> Row:
    return Row(
        name=name,
        is_site=True,
        breaks=breaks,
        mends=mends,
        edge=PATIENT,
        has_shim=True,
        has_short_turns=True,
    )


ROWS = (
    row("another site floods: forwards", floods("forwards")),
    row("another site floods: channels", floods("opens")),
    row("another site answers anything in place of SOCKS5", answers, mends=forget),
)


async def test_row(proven: Callable[[], Awaitable[None]]) -> None:
    await proven()
