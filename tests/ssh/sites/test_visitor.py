"""A site that cancels its forwards: it is away while it has none, and its ssh stays logged in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from asyncssh.packet import String, UInt32
from structlog.testing import capture_logs

from proxy.config.matches import Match
from proxy.errors import LinkDown
from proxy.snapshots import GatewayState
from proxy.ssh.native.wire import messages
from proxy.ssh.server.server import SshServer
from proxy.ssh.sites import presence
from proxy.ssh.sites import site as module
from tests.ssh.conftest import ORIGIN
from tests.ssh.scripted_peer import Script
from tests.ssh.sites.test_site import Said, Watched
from tests.support.echo import Echo
from tests.support.ssh_bed import WAIT_S, SshBed, ended

pytestmark = [pytest.mark.sshd, pytest.mark.usefixtures("data_plane")]

SUCCESS, FAILURE = 81, 82


@asynccontextmanager
async def watched(folder: Path) -> AsyncIterator[tuple[Watched, SshBed]]:
    one, bed = Watched(), SshBed(folder)
    bed.server = SshServer(on_login=one.site.logged_in, record=bed.record)
    async with bed, AsyncExitStack() as stack:
        stack.push_async_callback(one.site.close)
        yield one, bed


async def until(holds: Callable[[], bool]) -> None:
    """Wait for something that `Watched` is not told of."""
    async with asyncio.timeout(WAIT_S):
        while not holds():
            await asyncio.sleep(0.01)


async def test_a_site_without_its_last_forward_is_away_until_it_asks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ssh stays logged in, and the connections through it stay open."""
    monkeypatch.setattr(module, "FORWARDS_S", 0.0)
    monkeypatch.setattr(presence, "AWAY_S", 0.0)
    by = asyncio.get_running_loop().time() + WAIT_S
    control = ("-S", str(tmp_path / "control"))
    with capture_logs() as logs:
        async with watched(tmp_path / "bed") as (one, bed), Echo() as echo:

            async def order(what: str, forward: str) -> None:
                words = (*control, "-O", what, "-R", forward)
                done = await bed.ssh(bed.factory, *words, is_login=False)
                assert done.code == 0, done.said

            permit = (Match.parse(str(echo.endpoint)),)
            one.site.reconfigure(one.site.config.model_copy(update={"permit": permit}))
            client = await bed.start(bed.factory, "-N", "-M", *control, "-R", "factory-7:1080")
            try:
                await one.links(1, 0)
                channel = await one.site.open_channel(echo.endpoint, origin=ORIGIN, hold_until=by)
                await order("forward", "kube:6443:127.0.0.1:1")
                await order("cancel", "factory-7:1080")
                await until(lambda: one.site.snapshot().links[0].forwards == ("kube:6443",))

                await order("cancel", "kube:6443:127.0.0.1:1")
                await one.links(0, 0)
                away = one.site.snapshot()
                assert (away.state, away.connected) == (GatewayState.DOWN, None)
                assert (away.reason, away.message) == ("link_down", "it has logged in, and its ssh has no -R")
                assert [link.channels for link in away.callers] == [1]
                assert one.said[-1] == Said(GatewayState.DOWN, 0, False)
                with pytest.raises(LinkDown, match="has no link"):
                    await one.site.open_channel(echo.endpoint, origin=ORIGIN, hold_until=0.0)
                async with asyncio.TaskGroup() as clients:
                    waits = one.site.open_channel(echo.endpoint, origin=ORIGIN, hold_until=by)
                    waiting = clients.create_task(waits)
                    await order("forward", "factory-7:1080")
                waiting.result().abort()
                await one.links(1, 0)
                again = one.site.snapshot()
                assert (again.state, again.callers, again.reason) == (GatewayState.UP, (), "")
                assert one.said[-1] == Said(GatewayState.UP, 1, True)
                channel.abort()

                await order("cancel", "factory-7:1080")
                await one.links(0, 0)
            finally:
                await ended(client)
            await until(lambda: not one.site.snapshot().callers)
    told = [entry["event"] for entry in logs if str(entry["event"]).startswith("link ")]
    assert told == ["link up", "link serves no longer"] * 2 + ["link lost"]


class Scripted:
    """A site's client, whose answers to test channels come from the test."""

    def __init__(self, client: asyncssh.SSHClientConnection) -> None:
        self.script = Script()
        self.script.take_over(client)
        self._client: Any = client

    async def ask(self, what: bytes, host: str, port: int) -> int:
        """Send `tcpip-forward` or `cancel-tcpip-forward`. Returns the kind of the answer."""
        async with asyncio.timeout(WAIT_S):
            kind, _ = await self._client._make_global_request(what, String(host), UInt32(port))
        return int(kind)

    async def refuse(self) -> None:
        """Refuse the next channel."""
        await self.refuse_number(await self.script.open_request())

    async def refuse_number(self, number: int) -> None:
        why = String("no such forward") + String("")
        self.script.send(messages.OPEN_FAILURE, number, messages.CONNECT_FAILED, then=why)

    async def left(self) -> None:
        async with asyncio.timeout(WAIT_S):
            await self._client.wait_closed()


@asynccontextmanager
async def scripted(folder: Path) -> AsyncIterator[tuple[Watched, Scripted]]:
    async with watched(folder) as (one, bed):
        client = await asyncssh.connect(
            *bed.address,
            username="factory-7",
            client_keys=[str(bed.factory)],
            known_hosts=str(bed.known_hosts),
            config=None,
            agent_path=None,
        )
        yield one, Scripted(client)
        client.abort()


@pytest.mark.parametrize("name", ["kube", "factory-7"])
async def test_a_forward_that_is_cancelled_while_it_is_tested(tmp_path: Path, name: str) -> None:
    """The login does not end for it, and the next forward is tested."""
    async with scripted(tmp_path / "bed") as (one, site):
        assert await site.ask(b"tcpip-forward", name, 6443) == SUCCESS
        number = await site.script.open_request()
        assert await site.ask(b"cancel-tcpip-forward", name, 6443) == SUCCESS
        assert await site.ask(b"cancel-tcpip-forward", name, 6443) == FAILURE
        await site.refuse_number(number)
        assert await site.ask(b"tcpip-forward", "prod", 6443) == SUCCESS
        await site.refuse()  # ssh knows it, and its target refuses
        await one.links(1, 0)
        assert one.site.snapshot().links[0].forwards == ("prod:6443",)
        assert [said.links for said in one.said if said.links] == [1]


async def test_another_forward_is_tested_instead_of_a_cancelled_one(tmp_path: Path) -> None:
    async with scripted(tmp_path / "bed") as (one, site):
        assert await site.ask(b"tcpip-forward", "kube", 6443) == SUCCESS
        number = await site.script.open_request()
        assert await site.ask(b"tcpip-forward", "prod", 6443) == SUCCESS
        assert await site.ask(b"cancel-tcpip-forward", "kube", 6443) == SUCCESS
        await site.refuse_number(number)
        await site.refuse()
        await one.links(1, 0)


async def test_a_site_that_cancels_and_answers_no_test_does_not_stay(tmp_path: Path) -> None:
    """Each test without an answer keeps memory: there must be no second one."""
    async with scripted(tmp_path / "bed") as (one, site):
        assert await site.ask(b"tcpip-forward", "kube", 6443) == SUCCESS
        await site.script.open_request()
        assert await site.ask(b"cancel-tcpip-forward", "kube", 6443) == SUCCESS
        (visitor,) = one.site._visitors
        next(iter(visitor.link._openings)).expired()  # as its timer does
        await site.left()
        await until(lambda: not one.site.snapshot().callers)
        refused = one.site.snapshot().refused
        assert refused is not None
        assert refused.message.startswith("-R kube:6443 leads nowhere: ")
