"""A site on a machine of its own, whose address changes while it is connected: in a network namespace."""

from __future__ import annotations

import asyncio
import secrets
from asyncio.subprocess import DEVNULL, PIPE, Process
from pathlib import Path

import pytest

from proxy.runtime.endpoint import Endpoint
from tests.integration.running import running, told, wait_for_log
from tests.support.elsewhere import FarSshd
from tests.support.ports import free_port
from tests.support.serving import closed
from tests.support.site import SshServerFiles

pytestmark = [pytest.mark.sshd, pytest.mark.network]

NAME = "factory-7"
DIES_S = 60.0


async def dial(files: SshServerFiles, far: FarSshd, ours: str) -> Process:
    """Start the site's ssh on the far machine; it notices a silent connection by itself, too."""
    options = ("-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=2")
    via = Endpoint(ours, files.listen.port)
    command = files.command(NAME, "-N", "-T", *options, "-R", f"{NAME}:1080", via=via)
    return await asyncio.create_subprocess_exec(
        *far.command, *command, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE
    )


async def greeting(proxy: Endpoint, port: int) -> bytes:
    """The first words of the sshd on the far machine's loopback, which is reached by the site's name."""
    async with asyncio.timeout(DIES_S):
        reader, writer = await asyncio.open_connection(*proxy)
        try:
            writer.write(f"CONNECT {NAME}:{port} HTTP/1.1\r\n\r\n".encode())
            assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
            return await reader.readexactly(4)
        finally:
            await closed(writer)


async def test_a_site_whose_address_changes_is_back_at_once(tmp_path: Path) -> None:
    """Neither side is told: packets of the first connection are lost. The second login does not wait."""
    files, proxy = SshServerFiles(tmp_path / "ssh"), Endpoint("127.0.0.1", free_port())
    server = {**files.sections(), "listen": f"0.0.0.0:{files.listen.port}", "allow_remote": True}
    site = {
        **files.authorized(NAME),
        "permit": ["127.0.0.1:*"],
        "keepalive": {"interval": "1s", "max_missed": 2},
    }
    with FarSshd(tmp_path / "far") as far:
        far.reconfigure({"ListenAddress": f"{far.host}\nListenAddress 127.0.0.1"})
        await asyncio.to_thread(far.restart)
        async with running(
            tmp_path / "daemon",
            gateways={},
            clusters={},
            entries={"proxy": {"listen": str(proxy)}},
            ssh_server=server,
            sites={NAME: site},
        ) as daemon:
            first = await dial(files, far, far.ours)
            up = await wait_for_log(daemon, "link up", gateway=NAME)
            assert far.host in str(up["server"])
            assert await greeting(proxy, far.port) == b"SSH-"

            ours, theirs = far.move(f"198.19.{secrets.randbelow(256)}.{4 * secrets.randbelow(64)}")
            second = await dial(files, far, ours)
            await wait_for_log(daemon, "link up", gateway=NAME, link=f"{NAME}/2")
            assert await greeting(proxy, far.port) == b"SSH-"
            assert theirs in str(told(daemon)[NAME]["links"])

            lost = await wait_for_log(daemon, "link lost", gateway=NAME)
            assert (lost["link"], lost["reason"]) == (f"{NAME}/1", "keepalive_timeout")
            async with asyncio.timeout(DIES_S):
                _, said = await first.communicate()
            assert b"not responding" in said
            assert await greeting(proxy, far.port) == b"SSH-"
            second.kill()
            await second.communicate()
