"""The status and metrics of a site while one link replaces another, and after the last link has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from structlog.testing import capture_logs

from proxy.config.matches import Match
from proxy.config.model import SiteConfig
from proxy.errors import KeepaliveTimeout, LinkDown, LinkError, LinkLost
from proxy.metrics.records import GatewayRecord
from proxy.relay.budget import MemoryBudget
from proxy.runtime.endpoint import Endpoint
from proxy.snapshots import GatewayState
from proxy.ssh.server.server import SshServer
from proxy.ssh.sites import flapping, presence
from proxy.ssh.sites import site as module
from proxy.ssh.sites.remedies import remedy
from proxy.ssh.sites.site import Site
from proxy.ssh.turns import Turns
from tests.ssh.conftest import ORIGIN
from tests.support.echo import Echo
from tests.support.ssh_bed import WAIT_S, SshBed, ended

pytestmark = pytest.mark.sshd

CONNECTIONS = 2
THERE = Endpoint("127.0.0.1", 22)


class Said(NamedTuple):
    """The values in status and metrics after each change."""

    state: GatewayState
    links: int
    is_connected: bool


class Watched:
    """A site that allows `CONNECTIONS` links, and its values after each change."""

    def __init__(self) -> None:
        self.said: list[Said] = []
        self._news = asyncio.Event()
        self._record = GatewayRecord()
        self.site = Site(
            "factory-7",
            SiteConfig(connections=CONNECTIONS, permit=(Match.parse(str(THERE)),)),
            budget=MemoryBudget(64 << 20, connections=10),
            turns=Turns(),
            record=self._record,
            is_taken=lambda _: False,
            on_change=self._changed,
        )

    def _changed(self) -> None:
        self.said.append(Said(self.site.snapshot().state, self._record.links, self.site.is_connected))
        self._news.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not holds():
                self._news.clear()
                await self._news.wait()

    async def links(self, serving: int, reconnects: int) -> None:
        """Wait until so many links serve, none retires, and so many links have replaced another one."""

        def there() -> bool:
            now = self.site.snapshot()
            return (len(now.links), len(now.retiring), now.reconnects) == (serving, 0, reconnects)

        await self.until(there)


async def test_a_replacement_and_a_short_absence_are_no_gap_in_the_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, bed = Watched(), SshBed(tmp_path / "bed")
    bed.server = SshServer(on_login=one.site.logged_in, record=bed.record)
    async with bed, AsyncExitStack() as stack:
        stack.push_async_callback(one.site.close)
        clients = []
        for number in range(1, 2 * CONNECTIONS + 1):
            clients.append(await bed.start(bed.factory, "-N", "-R", "factory-7:1080"))
            stack.push_async_callback(ended, clients[-1])
            await one.links(min(number, CONNECTIONS), max(0, number - CONNECTIONS))
        up = [Said(GatewayState.UP, links, True) for links in range(1, CONNECTIONS + 1)]
        assert set(one.said) == set(up)
        assert one.said == sorted(one.said), "it never has fewer links than before"

        one.said.clear()
        for client in clients:
            await ended(client)
        await one.links(0, CONNECTIONS)
        assert set(one.said) == {up[0], Said(GatewayState.DOWN, 0, True)}
        monkeypatch.setattr(presence, "AWAY_S", 0.0)
        assert not one.site.is_connected
        assert one.site.snapshot().away is not None

        clients.append(await bed.start(bed.factory, "-N", "-R", "factory-7:1080"))
        stack.push_async_callback(ended, clients[-1])
        await one.links(1, CONNECTIONS + 1)
        assert one.said[-1] == up[0]


async def test_the_reasons_of_an_absent_site_fit_a_site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kubemux does not dial a site, and a site has no sshd whose log could help."""
    monkeypatch.setattr(module, "FORWARDS_S", -1.0)  # the link's age is 0 in its first millisecond
    one, bed = Watched(), SshBed(tmp_path / "bed")
    bed.server = SshServer(on_login=one.site.logged_in, record=bed.record)
    async with bed, AsyncExitStack() as stack:
        stack.push_async_callback(one.site.close)
        client = await bed.start(bed.factory, "-N", "-R", "factory-7:1080")
        stack.push_async_callback(ended, client)
        await one.links(1, 0)
        await ended(client)
        await one.links(0, 0)
        away = one.site.snapshot()
        assert (away.reason, away.hint) == ("link_lost", remedy(LinkLost("")))
        with pytest.raises(LinkDown) as lost:
            await one.site.open_channel(THERE, origin=THERE, hold_until=0.0)
        assert lost.value.hint == "kubemux site show factory-7 says since when, and why"

        caller = await bed.start(bed.factory, "-N")
        stack.push_async_callback(ended, caller)
        async with asyncio.timeout(WAIT_S):
            while not one.site.snapshot().callers:
                await asyncio.sleep(0.01)
        away = one.site.snapshot()
        assert (away.reason, away.message) == ("link_down", "it has logged in, and its ssh has no -R")
        assert away.hint.startswith("add -R factory-7:1080")


async def test_the_heartbeat_leaves_an_idle_site_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "AWAY_S", 3600.0)
    one, bed = Watched(), SshBed(tmp_path / "bed")
    bed.server = SshServer(on_login=one.site.logged_in, record=bed.record)

    def sampled() -> bool:
        one.site.sample()
        return one.site.is_awake

    assert not sampled(), "it has never come"
    async with bed, AsyncExitStack() as stack:
        stack.push_async_callback(one.site.close)
        client = await bed.start(bed.factory, "-N", "-R", "factory-7:1080")
        stack.push_async_callback(ended, client)
        await one.links(1, 0)
        assert one.site.is_awake
        async with asyncio.timeout(WAIT_S):
            while sampled():  # the channel that tested the forward may be open still
                await asyncio.sleep(0.01)
        async with Echo() as echo:
            permit = (Match.parse(str(echo.endpoint)),)
            one.site.reconfigure(one.site.config.model_copy(update={"permit": permit}))
            assert not sampled(), "a reload alone opens no channel"
            by = asyncio.get_running_loop().time() + WAIT_S
            channel = await one.site.open_channel(echo.endpoint, origin=ORIGIN, hold_until=by)
            assert one.site.is_awake
            assert sampled(), "a channel is open"
            channel.abort()
            async with asyncio.timeout(WAIT_S):
                while sampled():
                    await asyncio.sleep(0.01)
        await ended(client)
        await one.links(0, 0)
        assert sampled(), "the metrics still show it as connected"
        monkeypatch.setattr(presence, "AWAY_S", 0.0)
        assert not sampled()


@pytest.mark.parametrize("reason", [LinkLost, KeepaliveTimeout, LinkError])
def test_the_remedies_for_a_site_do_not_mention_gateways(reason: type[LinkError]) -> None:
    said = remedy(reason("it is gone"))
    assert "site" in said
    assert not any(word in said for word in ("kubemux dials", "sshd", "gateway"))


async def test_a_flapping_site_is_served_after_each_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log is calm after the warning, and the metrics show no gap."""
    monkeypatch.setattr(flapping, "WINDOW_S", 600.0)
    one, bed = Watched(), SshBed(tmp_path / "bed")
    bed.server = SshServer(on_login=one.site.logged_in, record=bed.record)
    async with bed, AsyncExitStack() as stack:
        stack.push_async_callback(one.site.close)
        with capture_logs() as logs:
            for number in range(flapping.MANY + 2):
                client = await bed.start(bed.factory, "-N", "-R", "factory-7:1080")
                stack.push_async_callback(ended, client)
                await one.links(1, number)
                await ended(client)
                await one.links(0, number)
    assert all(said.is_connected for said in one.said)
    levels = [line["log_level"] for line in logs if line["event"] == "link up"]
    assert levels == ["info"] * (flapping.MANY - 1) + ["debug"] * 3
    assert [line["log_level"] for line in logs if line["event"] == "site flaps"] == ["warning"]
