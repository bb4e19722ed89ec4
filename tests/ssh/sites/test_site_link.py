"""Channels through OpenSSH's client as a site, whose clients stop waiting for them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from proxy.config.matches import Pattern
from proxy.config.model import SiteConfig
from proxy.errors import ChannelRefused
from proxy.metrics.records import GatewayRecord
from proxy.relay.budget import MemoryBudget
from proxy.runtime.endpoint import Endpoint
from proxy.runtime.tasks import Tasks
from proxy.ssh.planes import DATA_PLANE
from proxy.ssh.server.server import SshServer
from proxy.ssh.sites.site import Site
from proxy.ssh.turns import Turns
from tests.support.echo import Echo
from tests.support.ports import free_port
from tests.support.ssh_bed import SshBed, ended

pytestmark = pytest.mark.sshd

ORIGIN = Endpoint("127.0.0.1", 1)


@pytest.mark.parametrize("plane", ["native", "asyncssh"])
async def test_a_client_that_gives_up_leaves_no_channel_behind(
    tmp_path: Path, plane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATA_PLANE, plane)
    came = asyncio.Event()
    budget, tasks = MemoryBudget(64 << 20, connections=1000), Tasks("clients")
    site = Site(
        "factory-7",
        SiteConfig(permit=(Pattern.parse("127.0.0.1:*"),)),
        budget=budget,
        turns=Turns(),
        record=GatewayRecord(),
        is_taken=lambda _: False,
        on_change=lambda: came.set() if site.is_up else None,
    )
    bed = SshBed(tmp_path / "bed")
    bed.server = SshServer(on_login=site.logged_in, record=bed.record)
    loop = asyncio.get_running_loop()

    async def client(target: Endpoint) -> None:
        channel = await site.open_channel(target, origin=ORIGIN, hold_until=loop.time() + 30)
        channel.abort()

    async with Echo() as echo, bed:
        ssh = await bed.start(bed.factory, "-N", "-R", "factory-7:1080")
        try:
            async with asyncio.timeout(60):
                await came.wait()
                await client(echo.endpoint)
                with pytest.raises(ChannelRefused, match="PermitRemoteOpen"):
                    await client(Endpoint("127.0.0.1", free_port()))
                for turns in range(30):  # its OPEN is sent, confirmed, and its request sent meanwhile
                    task = tasks.spawn(client(echo.endpoint), name="client")
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    task.cancel()
                    await asyncio.wait([task])
                await site.drain(120)  # until no channel is left
            assert budget.used == 0
        finally:
            await tasks.close()
            await site.close()
            await ended(ssh)
