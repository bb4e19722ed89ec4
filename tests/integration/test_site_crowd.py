"""Logins of a site that are ended: there are too many without a forward, or the key is no longer there."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import asyncssh
import pytest

from proxy.ssh.sites.site import MOST_VISITORS
from tests.integration.sites import ALL, bed

pytestmark = pytest.mark.sshd

SECONDS = 60.0


async def test_the_oldest_idle_connection_without_a_forward_goes(tmp_path: Path) -> None:
    async with bed(tmp_path, {"edge": ALL}) as one, AsyncExitStack() as stack:
        serves = await stack.enter_async_context(one.ssh("edge", "edge:1080"))
        await one.links("edge", 1)
        conns = []
        for _ in range(MOST_VISITORS + 2):
            conn = await asyncssh.connect(
                one.files.listen.host,
                one.files.listen.port,
                username="edge",
                client_keys=[str(one.files.key("edge"))],
                known_hosts=str(one.files.known_hosts),
                config=None,
                agent_path=None,
            )
            conns.append(await stack.enter_async_context(conn))
        async with asyncio.timeout(SECONDS):
            for conn in conns[:2]:
                await conn.wait_closed()
        site = await one.until("edge", "two fewer", lambda site: len(site["callers"]) == MOST_VISITORS)
        assert (site["state"], len(site["links"])) == ("up", 1)
        assert serves.process.returncode is None
        assert not any(conn.is_closed() for conn in conns[2:])
        assert not site["reason"]  # nothing has failed


async def test_the_last_key_of_a_file_is_removed_by_a_reload_that_is_rejected(tmp_path: Path) -> None:
    async with (
        bed(tmp_path, {"edge": ALL}, expected_errors={"reload rejected"}) as one,
        one.ssh("edge", "edge:1080") as ssh,
    ):
        await one.links("edge", 1)
        (one.files.folder / "edge.authorized").write_text("# nobody\n")
        one.daemon.signal(signal.SIGHUP)
        assert "kubemux: key_removed" in await ssh.ended()
        events = [entry["event"] for entry in one.daemon.events()]
        after = events[events.index("reload rejected") :]
        assert "files changed" not in after[: after.index("login ends")]  # it did not take that scan
