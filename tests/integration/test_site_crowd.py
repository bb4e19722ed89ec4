"""kubemux ends logins of a site: too many have no forward, or the key is no longer valid."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import AsyncExitStack
from pathlib import Path

import asyncssh
import pytest

from proxy.ssh.sites.visitors import MOST_VISITORS
from tests.integration.running import wait_for_log
from tests.integration.sites import ALL, bed
from tests.integration.test_site_links import tunnel
from tests.support.serving import closed

pytestmark = pytest.mark.sshd

SECONDS = 60.0


async def test_the_oldest_idle_connection_without_a_forward_is_closed(tmp_path: Path) -> None:
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
        await wait_for_log(one.daemon, "login ends")
        events = [entry["event"] for entry in one.daemon.events()]
        after = events[events.index("reload rejected") :]
        assert "files changed" not in after[: after.index("login ends")]  # it did not take that scan


async def test_a_key_that_expires_ends_connections_on_its_link(tmp_path: Path) -> None:
    async with bed(tmp_path, {"edge": ALL}) as one, one.ssh("edge", "edge:1080") as ssh:
        await one.links("edge", 1)
        reader, writer = await tunnel(one, f"edge:{one.echo.port}")
        end = time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() + 2))
        one.files.authorized("edge", f'expiry-time="{end}"')
        await one.reload()
        assert "kubemux: key_expired" in await ssh.ended()
        async with asyncio.timeout(SECONDS):
            with pytest.raises(ConnectionResetError):
                await reader.read()
        await closed(writer)
        await wait_for_log(one.daemon, "connection closed", site="edge", reason="key_expired")
        site = one.told("edge")
        assert (site["state"], site["reason"]) == ("down", "key_expired")
