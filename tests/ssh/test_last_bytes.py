"""The last messages of a channel's peer reach the client, followed by a regular end.

They are the reply of a site's SOCKS5 server, data, EOF and CLOSE. They may be cut into messages anywhere, and
come in one packet or in several. The client may read slowly. The site is scripted. On both data planes.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from proxy.errors import ChannelRefused
from proxy.errors.reasons import Reason
from proxy.metrics import Traffic
from proxy.relay.channel_relay import ChannelRelay
from proxy.relay.interfaces import Channel, Relay
from proxy.relay.socket_relay import SocketRelay
from proxy.ssh.native.wire import messages
from tests.relay import test_channel_relay as scripted
from tests.ssh.carried import SECONDS, until
from tests.ssh.scripted_site import REPLY, site
from tests.support.echo import pattern
from tests.support.ssh_served import Served

pytestmark = pytest.mark.usefixtures("data_plane")

ANSWER = b"answer"


class Client(NamedTuple):
    """A client's socket, and the relay from it to a site's channel."""

    sock: socket.socket
    relay: SocketRelay
    ended: asyncio.Future[Relay]

    async def read(self) -> bytes:
        """Read everything until the end. Raises ConnectionResetError if the end is a reset."""
        data, loop = b"", asyncio.get_running_loop()
        async with asyncio.timeout(SECONDS):
            while chunk := await loop.sock_recv(self.sock, 1 << 16):
                data += chunk
        return data

    async def leave(self) -> Reason | None:
        self.sock.close()
        async with asyncio.timeout(SECONDS):
            return (await self.ended).reason


@asynccontextmanager
async def client(channel: Channel, served: Served) -> AsyncIterator[Client]:
    """A client that reads nothing by itself, and has little room for what waits."""
    loop = asyncio.get_running_loop()
    with socket.socket() as sock, socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(listener.getsockname())
        accepted, _ = listener.accept()
        for one in (sock, accepted):
            one.setblocking(False)
        ended: asyncio.Future[Relay] = loop.create_future()
        relay = SocketRelay(
            channel,
            Traffic(),
            served.budget,
            ended.set_result,
            lambda relay: loop.connect_accepted_socket(lambda: relay, accepted),
        )
        await relay.start()
        yield Client(sock, relay, ended)


def cuts(stream: bytes) -> Iterator[list[bytes]]:
    """The stream whole, and in two pieces, cut at every byte."""
    yield [stream]
    for at in range(1, len(stream)):
        yield [stream[:at], stream[at:]]


@pytest.mark.parametrize("in_one_packet", [True, False])
async def test_a_reply_and_all_that_follows_it_reach_a_client(tmp_path: Path, in_one_packet: bool) -> None:
    async with site(tmp_path) as (peer, served):
        for pieces in cuts(REPLY + ANSWER):
            reaching = await peer.asked()
            for piece in pieces:
                peer.data(piece)
                if not in_one_packet:
                    await asyncio.sleep(0)
            peer.eof()
            peer.close()
            async with client(await reaching, served) as one:
                assert await one.read() == ANSWER, pieces
                assert await one.leave() == Reason.CLUSTER_CLOSED, pieces
        await until(lambda: not peer.link.load)


async def test_a_channel_that_has_ended_before_its_relay_begins_is_relayed_in_order(tmp_path: Path) -> None:
    """With unread data, or without."""
    async with site(tmp_path) as (peer, served):
        for said in (b"", ANSWER):
            reaching = await peer.asked()
            peer.data(REPLY + said)
            peer.eof()
            peer.close()
            channel = await reaching
            await peer.heard(messages.CLOSE)
            async with client(channel, served) as one:
                assert await one.read() == said
                assert await one.leave() == Reason.CLUSTER_CLOSED


@pytest.mark.parametrize("is_lost", [False, True], ids=["link up", "link lost"])
async def test_a_client_that_reads_late_gets_all_of_it(
    tmp_path: Path, is_lost: bool, data_plane: str
) -> None:
    """Its channel is paused when EOF and CLOSE come, and perhaps the link is lost then.

    asyncssh drops what waits in a channel then: the client must not believe that it has got all.
    """
    said = pattern(100_000)
    async with site(tmp_path) as (peer, served):
        reaching = await peer.asked()
        peer.data(REPLY)
        async with client(await reaching, served) as one:
            peer.data(said)
            await until(lambda: one.relay.is_cluster_paused)
            peer.eof()
            peer.close()
            await peer.heard(messages.CLOSE)
            if is_lost:
                await peer.leave()
            if is_lost and data_plane == "asyncssh":
                with pytest.raises(ConnectionResetError):
                    await one.read()
                assert await one.leave() == Reason.LINK_LOST
            else:
                assert await one.read() == said
                assert await one.leave() == Reason.CLUSTER_CLOSED


@pytest.mark.parametrize("credit", [0, 10_000, 1 << 30])
async def test_a_client_on_another_channel_gets_all_of_it(tmp_path: Path, credit: int) -> None:
    """The peer grants more credit after EOF and CLOSE have arrived."""
    said = pattern(100_000)
    async with site(tmp_path) as (peer, served):
        jumper, ended = scripted.Channel(credit), list[Relay]()
        reaching = await peer.asked()
        peer.data(REPLY + said[:100])
        relay = ChannelRelay(await reaching, Traffic(), served.budget, ended.append, lambda: jumper)
        await relay.start()
        peer.data(said[100:])
        peer.eof()
        peer.close()
        await peer.heard(messages.CLOSE)
        jumper.grant(1 << 30)
        await until(lambda: "close" in jumper.calls)
        assert bytes(jumper.sent) == said
        assert jumper.calls[:2] == ["write_eof", "close"]
        jumper.lost()
        assert ended == [relay]
        assert relay.reason == Reason.CLUSTER_CLOSED


@pytest.mark.parametrize("has_eof", [True, False])
async def test_a_reply_that_is_cut_off_is_a_refusal(tmp_path: Path, has_eof: bool) -> None:
    async with site(tmp_path) as (peer, _):
        for size in range(len(REPLY)):
            reaching = await peer.asked()
            peer.data(REPLY[:size])
            if has_eof:
                peer.eof()
            peer.close()
            with pytest.raises(ChannelRefused, match="could not connect"):
                await reaching
        await until(lambda: not peer.link.load)


async def test_a_close_without_eof_is_in_order_after_the_clients_own(tmp_path: Path) -> None:
    """Servers that close both directions at once leave out their EOF."""
    async with site(tmp_path) as (peer, served):
        reaching = await peer.asked()
        peer.data(REPLY)
        async with client(await reaching, served) as one:
            one.sock.shutdown(socket.SHUT_WR)
            await peer.heard(messages.EOF)
            peer.data(ANSWER)
            peer.close()
            assert await one.read() == ANSWER
            assert await one.leave() == Reason.CLIENT_CLOSED
