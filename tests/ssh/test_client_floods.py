"""A client of our SSH server that floods: one turn of the loop handles a bounded number of messages, and the
memory for them is bounded. On both data planes.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, cast

import asyncssh
import pytest
from asyncssh.packet import Boolean, Byte, String, UInt32

from proxy.relay.interfaces import OpenRequest
from proxy.ssh import metered
from proxy.ssh.native import incoming, native_plane
from proxy.ssh.native.native_plane import NativePlane
from proxy.ssh.native.wire import messages
from tests.ssh.carried import SECONDS, until
from tests.ssh.test_open_requests import asking
from tests.support.hostile import FLOODS, GLOBAL_REQUEST, IGNORE, Flooding
from tests.support.ssh_served import Served

COUNT: Final = 1_500
LONG: Final = 2_000
READ: Final = 256 << 10
"""Bytes that uvloop reads at a time."""

OPENS: Final[Mapping[str, bytes]] = {
    "channels": Byte(messages.OPEN) + asking(),
    "shells": Byte(messages.OPEN) + asking("session"),
}
OTHERS: Final[Mapping[str, bytes]] = {
    name: FLOODS[name] for name in ("ignores", "global requests", "keepalives")
}
FORWARD: Final = Byte(GLOBAL_REQUEST) + String("tcpip-forward") + Boolean(True) + String("kube") + UInt32(1)


class Turns:
    """Counts handled messages: the most in one turn of the loop, and all."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.most = self.all = 0
        self.waiting = 0
        """The most bytes that asyncssh had received while it handled a packet, and not opened."""
        self._now = 0
        self._is_counting = False
        for of, name in ((asyncssh.SSHServerConnection, "_finish_recv_packet"), (NativePlane, "_message")):
            monkeypatch.setattr(of, name, self._counted(getattr(of, name)))

    def _counted(self, original: Any) -> Any:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self._now += 1
            self.all += 1
            self.most = max(self.most, self._now)
            self.waiting = max(self.waiting, len(getattr(args[0], "_inpbuf", b"")))
            if not self._is_counting:
                self._is_counting = True
                asyncio.get_running_loop().call_soon(self._turn)
            return original(*args, **kwargs)

        return counted

    def _turn(self) -> None:
        self._now, self._is_counting = 0, False


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> Turns:
    return Turns(monkeypatch)


@asynccontextmanager
async def flooded(folder: Path, **more: Any) -> AsyncIterator[tuple[Served, Flooding]]:
    """A server whose requests are refused at once, and a client that has logged in and can flood.

    All refusals together are more than the kernel keeps for a client that does not read them.
    """

    def refuse(request: OpenRequest) -> None:
        request.refuse(messages.PROHIBITED, "no" * 200)

    async with Served(folder, refuse, **more) as served:
        conn = await served.client()
        await served.link()
        try:
            yield served, Flooding.client(conn, COUNT)
        finally:
            conn.abort()
            await conn.wait_closed()


@pytest.mark.parametrize("flood", OPENS)
async def test_a_turn_answers_a_bounded_number_of_requests(
    tmp_path: Path, turns: Turns, data_plane: str, flood: str
) -> None:
    async with flooded(tmp_path) as (_, client):
        client.flood(OPENS[flood])
        await until(lambda: client.answers == COUNT)
    assert turns.most <= (incoming.TURN // native_plane.OPEN_COST if data_plane == "native" else metered.TURN)


@pytest.mark.parametrize("flood", OTHERS)
async def test_a_turn_handles_a_bounded_number_of_other_messages(
    tmp_path: Path, turns: Turns, data_plane: str, flood: str
) -> None:
    async with flooded(tmp_path) as (_, client):
        client.flood(OTHERS[flood])
        await until(lambda: turns.all > COUNT)
    # In the turn of the takeover both count.
    most = metered.TURN + incoming.TURN // incoming.ASYNCSSH_COST if data_plane == "native" else metered.TURN
    assert turns.most <= most


@pytest.mark.parametrize("data_plane", ["asyncssh"], indirect=True)
async def test_no_more_than_one_read_waits_for_asyncssh(
    tmp_path: Path, turns: Turns, data_plane: str
) -> None:
    """asyncssh copies the waiting bytes twice for each packet, which is at most TURN times in a turn."""
    async with flooded(tmp_path) as (served, client):
        client.flood(Byte(IGNORE) + String(bytes(LONG)))
        await until(lambda: turns.all > COUNT)
        assert served.links[-1].data_plane == data_plane
    assert turns.most <= metered.TURN
    assert metered.TURN * LONG < turns.waiting <= READ


async def test_forwards_without_end_end_the_link(tmp_path: Path, turns: Turns, data_plane: str) -> None:
    """Each request takes several turns, and the others wait for it."""
    async with flooded(tmp_path) as (served, client):
        client.flood(FORWARD)
        async with asyncio.timeout(SECONDS):
            error = await asyncio.shield(served.links[-1].closed)
    assert f"makes {metered.MOST_QUEUED} requests" in str(error), data_plane
    assert turns.all < COUNT


async def test_a_client_has_at_most_max_channels(tmp_path: Path, data_plane: str) -> None:
    """Further requests are refused. The open channels stay."""
    most = 50
    async with Served(tmp_path, max_requests=most) as served:
        conn = await served.client()
        link = await served.link()
        client = Flooding.client(conn, COUNT)
        client.flood(OPENS["channels"])
        await until(lambda: client.answers == COUNT - most)
        assert link.load == most == served.requests.qsize()
        assert link.data_plane == data_plane
        for _ in range(most):
            (await served.request()).refuse(messages.PROHIBITED, "no")
        await until(lambda: client.answers == COUNT)
        assert link.idle.is_set()
        conn.abort()
        await conn.wait_closed()


async def test_a_client_that_does_not_read_its_refusals_is_not_heard(
    tmp_path: Path, data_plane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server reads again when the client does: then the client gets every refusal."""
    most = 64 << 10
    for module in (metered, native_plane):
        monkeypatch.setattr(module, "MOST_UNREAD", most)
    async with flooded(tmp_path) as (served, client):
        ours, theirs = cast("Any", served.conns[-1]), client.conn
        ours.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        theirs.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        theirs._transport.pause_reading()
        client.flood(OPENS["channels"])
        transport = ours._transport
        await until(lambda: transport.get_write_buffer_size() > most // 2)
        for _ in range(300):
            await asyncio.sleep(0)
            assert transport.get_write_buffer_size() < most + 16 * 600, "what one turn answers"
        ours.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        theirs.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        theirs._transport.resume_reading()
        await until(lambda: client.answers == COUNT)
        assert served.links[-1].error is None, data_plane


async def test_requests_while_keys_are_exchanged_without_end_have_a_bound(
    tmp_path: Path, data_plane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metered, "MOST_ANSWERS", 1000)
    monkeypatch.setattr("proxy.ssh.native.outgoing.MOST_DEFERRED", 1000)
    async with flooded(tmp_path) as (served, client):
        cast("Any", served.conns[-1])._send_kexinit()
        client.flood(OPENS["channels"])
        async with asyncio.timeout(SECONDS):
            error = await asyncio.shield(served.links[-1].closed)
        assert (error.reason, served.links[-1].data_plane) == ("protocol_error", data_plane)
