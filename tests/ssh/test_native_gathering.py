"""When a link leaves bytes in the kernel until a large read is possible."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from proxy.ssh.native.gathering import FAST, GOOD_READ, MEMORY_S, Gathering
from tests.ssh.carried import until

pytestmark = pytest.mark.both_loops

PER_TURN = 16 << 20
"""Bytes; a rate that counts as fast, whatever the number of turns per second."""


class Hearing(asyncio.Protocol):
    """A link's protocol, as far as gathering needs it."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.has_ended = asyncio.Event()
        self.has_more = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.has_more.set()

    def eof_received(self) -> bool:
        self.has_ended.set()
        return True


class Link:
    """Both ends of a TCP connection; one end has a transport that gathers."""

    def __init__(self, transport: asyncio.Transport, hearing: Hearing, theirs: socket.socket) -> None:
        self.transport = transport
        self.hearing = hearing
        self.theirs = theirs
        self.socket: socket.socket = transport.get_extra_info("socket")
        self.gathering = Gathering(transport, self.socket)

    @property
    def kernels(self) -> int:
        """The socket's SO_RCVLOWAT."""
        return self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)

    async def download(self) -> None:
        """Report more bytes than there are, until the transport waits for a large read."""
        async with asyncio.timeout(30):
            while self.gathering.enough == 1:
                self.gathering.read(PER_TURN)
                await asyncio.sleep(0)


@asynccontextmanager
async def connected() -> AsyncIterator[Link]:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    with theirs:
        theirs.setblocking(False)
        ours.setblocking(False)
        transport, hearing = await loop.create_connection(Hearing, sock=ours)
        link = Link(transport, hearing, theirs)
        yield link
        link.gathering.close()
        transport.abort()
        await asyncio.sleep(0)


async def test_a_long_download_is_read_in_large_pieces_and_its_end_at_once() -> None:
    async with connected() as link:
        await link.download()
        assert link.gathering.enough == link.kernels == GOOD_READ
        link.theirs.send(b"the end")
        async with asyncio.timeout(30):
            await link.hearing.has_more.wait()
        assert link.hearing.received == b"the end"
        assert link.gathering.enough == link.kernels == 1


async def test_a_tick_without_data_restarts_the_measurement() -> None:
    """Otherwise each of several large answers in a row would wait for its end."""
    async with connected() as link:
        await link.download()
        await until(lambda: link.gathering.enough == 1)
        assert link.gathering._ticking is None
        link.gathering.read(int(FAST * MEMORY_S) // 2)
        await until(lambda: link.gathering._ticking is None)
        assert link.kernels == 1


async def test_one_short_burst_does_not_start_gathering() -> None:
    """An answer of a few MB ends before gathering begins."""
    async with connected() as link:
        link.gathering.read(int(FAST * MEMORY_S) // 2)
        await until(lambda: link.gathering._ticking is None)
        assert link.kernels == 1


async def test_requests_never_wait() -> None:
    async with connected() as link:
        for _ in range(1000):
            link.gathering.read(4096)
        assert link.gathering._ticking is None
        assert link.kernels == 1


async def test_a_peer_that_closes_during_a_download_is_noticed() -> None:
    async with connected() as link:
        await link.download()
        link.theirs.send(b"!")
        link.theirs.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(30):
            await link.hearing.has_ended.wait()
        assert link.hearing.received == b"!"


async def test_a_descriptor_is_left_alone_once_it_is_closed() -> None:
    """The number may belong to another file by then."""
    async with connected() as link:
        await link.download()
        link.transport.abort()
        with socket.socket(fileno=link.theirs.detach()) as other:  # the same kind of descriptor
            link.gathering._socket = other
            other.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 7)
            await until(lambda: link.gathering._ticking is None)
            assert other.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 7


async def test_a_link_without_a_socket_of_its_own_is_read_as_it_comes() -> None:
    async with connected() as link:
        gathering = Gathering(link.transport, None)
        gathering.read(PER_TURN)
        assert gathering._ticking is None
