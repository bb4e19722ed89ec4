"""A relay between a real socket and a scripted channel: how the end, backpressure and loss of one side reach
the other.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from proxy.errors import LinkLost, ProxyError
from proxy.errors.reasons import Reason
from proxy.metrics import Traffic
from proxy.relay.budget import MemoryBudget
from proxy.relay.interfaces import ChannelUser
from proxy.relay.socket_relay import SocketRelay


class Channel:
    """Records what a relay does with it; `user` is the relay."""

    counts_unsent = False

    def __init__(self) -> None:
        self.user: ChannelUser | None = None
        self.sent = bytearray()
        self.calls: list[str] = []
        self._buffer = memoryview(bytearray(16 << 10))
        self._is_lost = False

    def attach(self, user: ChannelUser) -> None:
        self.user = user

    def detach(self, unread: bytes = b"") -> None:
        self.calls.append("detach")

    def get_buffer(self, sizehint: int) -> memoryview:
        assert sizehint
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.sent += self._buffer[:nbytes]

    def write_eof(self) -> None:
        self.calls.append("write_eof")

    def pause_reading(self) -> None:
        self.calls.append("pause_reading")

    def resume_reading(self) -> None:
        self.calls.append("resume_reading")

    def close(self) -> None:
        self.calls.append("close")
        self.lose(None)

    def abort(self) -> None:
        self.calls.append("abort")
        self.lose(None)

    def lose(self, error: ProxyError | None) -> None:
        if self.user and not self._is_lost:
            self._is_lost = True
            asyncio.get_running_loop().call_soon(self.user.channel_lost, error)


@asynccontextmanager
async def relayed() -> AsyncIterator[tuple[SocketRelay, Channel, socket.socket, asyncio.Future[SocketRelay]]]:
    """A relay on one end of a TCP connection; the other end is yielded as the client's socket."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[SocketRelay] = loop.create_future()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
    client.setblocking(False)
    accepted.setblocking(False)
    channel = Channel()
    relay = SocketRelay(
        channel,
        Traffic(),
        MemoryBudget(16 << 20, 10),
        ended.set_result,
        lambda relay: loop.connect_accepted_socket(lambda: relay, accepted),
    )
    try:
        await relay.start()
        yield relay, channel, client, ended
    finally:
        client.close()
        channel.lose(None)
        async with asyncio.timeout(30):
            await ended


async def receive(client: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes, or fewer if the stream ends."""
    data = b""
    async with asyncio.timeout(30):
        while len(data) < size and (
            chunk := await asyncio.get_running_loop().sock_recv(client, size - len(data))
        ):
            data += chunk
    return data


@pytest.mark.both_loops
async def test_bytes_go_both_ways_and_are_counted() -> None:
    loop = asyncio.get_running_loop()
    async with relayed() as (relay, channel, client, _):
        await loop.sock_sendall(client, b"request")
        relay.channel_data([b"answer"], 6)
        relay.channel_data([memoryview(b" in"), b" two"], 7)
        assert await receive(client, 13) == b"answer in two"
        async with asyncio.timeout(30):
            while channel.sent != b"request":
                await asyncio.sleep(0)
        assert (relay.to_cluster, relay.from_cluster) == (7, 13)
        assert relay.first_byte_at is not None


@pytest.mark.both_loops
async def test_a_client_that_ended_its_side_still_gets_the_answer() -> None:
    async with relayed() as (relay, channel, client, ended):
        client.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(30):
            while "write_eof" not in channel.calls:
                await asyncio.sleep(0)
        relay.channel_data([b"late answer"], 11)
        relay.channel_eof()
        assert await receive(client, 100) == b"late answer"
        async with asyncio.timeout(30):
            assert (await ended).reason == Reason.CLIENT_CLOSED
        assert channel.calls[-1] == "close"


@pytest.mark.both_loops
async def test_a_cluster_that_ended_its_side_still_gets_the_request() -> None:
    loop = asyncio.get_running_loop()
    async with relayed() as (relay, channel, client, ended):
        relay.channel_eof()
        assert await receive(client, 1) == b""
        await loop.sock_sendall(client, b"still talking")
        client.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(30):
            assert (await ended).reason == Reason.CLUSTER_CLOSED
        assert channel.sent == b"still talking"


@pytest.mark.both_loops
async def test_a_lost_link_resets_the_client() -> None:
    async with relayed() as (_, channel, client, ended):
        channel.lose(LinkLost("gone"))
        with pytest.raises(ConnectionResetError):
            await receive(client, 1)
        assert (await ended).reason == "link_lost"


@pytest.mark.both_loops
async def test_a_channel_closed_without_eof_resets_the_client() -> None:
    async with relayed() as (_, channel, client, ended):
        channel.lose(None)
        with pytest.raises(ConnectionResetError):
            await receive(client, 1)
        assert (await ended).reason == Reason.CLUSTER_RESET


@pytest.mark.both_loops
async def test_a_channel_closed_without_eof_gives_a_client_that_has_ended_all_that_was_sent() -> None:
    async with relayed() as (relay, channel, client, ended):
        client.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(30):
            while "write_eof" not in channel.calls:
                await asyncio.sleep(0)
        sent = 8 << 20  # more than the kernel takes
        relay.channel_data([bytes(sent)], sent)
        channel.lose(None)
        assert len(await receive(client, sent)) == sent
        assert not await receive(client, 1), "EOF, and no reset"
        assert (await ended).reason == Reason.CLIENT_CLOSED


@pytest.mark.both_loops(pauses=True)
@pytest.mark.parametrize("counts_unsent", [False, True])
async def test_a_client_that_does_not_read_pauses_the_channel_and_is_charged_once(
    counts_unsent: bool,
) -> None:
    async with relayed() as (relay, channel, client, _):
        budget, channel.counts_unsent = relay._budget, counts_unsent
        sent = 0
        async with asyncio.timeout(30):
            while not relay.is_cluster_paused:  # the kernel's buffers fill first
                relay.channel_data([bytes(64 << 10)], 64 << 10)
                sent += 64 << 10
                await asyncio.sleep(0)
        assert channel.calls[-1] == "pause_reading"
        assert (budget.used > 0) is not counts_unsent
        assert len(await receive(client, sent)) == sent
        async with asyncio.timeout(30):
            while channel.calls[-1] != "resume_reading":
                await asyncio.sleep(0)
        assert budget.used == 0


@pytest.mark.both_loops(pauses=True)
async def test_unread_bytes_are_charged_after_the_channel_ends() -> None:
    """The window that accounted for these bytes is released with the channel, so they are charged
    separately.
    """
    async with relayed() as (relay, channel, client, ended):
        budget, channel.counts_unsent, sent = relay._budget, True, 0
        async with asyncio.timeout(30):
            while not relay.is_cluster_paused:
                relay.channel_data([bytes(64 << 10)], 64 << 10)
                sent += 64 << 10
                await asyncio.sleep(0)
        assert not budget.used
        relay.channel_eof()
        relay.channel_lost(None)  # in this turn of the loop: in the next, the kernel may have taken the bytes
        assert 0 < budget.used <= 64 << 10
        assert len(await receive(client, sent)) == sent
        client.close()
        async with asyncio.timeout(30):
            await ended
        assert budget.used == 0


async def test_a_full_channel_leaves_the_clients_bytes_in_the_kernel() -> None:
    """uvloop may fill one more buffer after `pause_reading`; then nothing more."""
    loop = asyncio.get_running_loop()
    async with relayed() as (relay, channel, client, _):
        relay.channel_full()
        await loop.sock_sendall(client, bytes(100 << 10))
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(channel.sent) <= 16 << 10
        relay.channel_writable()
        async with asyncio.timeout(30):
            while len(channel.sent) < 100 << 10:
                await asyncio.sleep(0)


async def test_abort_ends_both_legs() -> None:
    async with relayed() as (relay, channel, client, ended):
        relay.abort(Reason.SHUTDOWN)
        with pytest.raises(ConnectionResetError):
            await receive(client, 1)
        assert (await ended).reason == Reason.SHUTDOWN
        assert "abort" in channel.calls
