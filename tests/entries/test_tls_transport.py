"""TLS on a client's connection: real sockets, OpenSSL on both sides."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from proxy.config import server_tls
from proxy.entries import tls_transport
from proxy.entries.tls_transport import NotTls, TlsTransport
from proxy.runtime.tasks import Tasks
from tests.support.echo import pattern
from tests.support.tls import Authority
from tests.support.tls_client import TlsClient

pytestmark = pytest.mark.both_loops


class Taking(asyncio.BufferedProtocol):
    """Replaces a relay: keeps received bytes, and records whether writing is paused."""

    def __init__(self) -> None:
        self.buffer = bytearray(65536)
        self.came = bytearray()
        self.has_ended = False
        self.is_writable = asyncio.Event()
        self.is_writable.set()
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.on_data: Callable[[], None] = lambda: None
        self.news = asyncio.Event()

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        return memoryview(self.buffer)

    def buffer_updated(self, nbytes: int) -> None:
        assert not self.has_ended
        self.came += self.buffer[:nbytes]
        self.on_data()
        self.news.set()

    def eof_received(self) -> bool:
        assert not self.has_ended, "EOF is reported once"
        self.has_ended = True
        self.news.set()
        return True

    def pause_writing(self) -> None:
        self.is_writable.clear()

    def resume_writing(self) -> None:
        self.is_writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)
        self.news.set()

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not is_so():
                self.news.clear()
                await self.news.wait()


class Pair:
    """Both ends of a connection."""

    def __init__(self, client: TlsClient, transport: TlsTransport, taking: Taking) -> None:
        self.client, self.transport, self.taking = client, transport, taking

    async def write(self, data: bytes) -> None:
        """Write as a relay does: pause while the client does not read."""
        for at in range(0, len(data), 100_000):
            await self.taking.is_writable.wait()
            self.transport.writelines([data[at : at + 60_000], memoryview(data)[at + 60_000 : at + 100_000]])


def sockets() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    ours.setblocking(False)
    theirs.setblocking(False)
    return theirs, ours


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def context(authority: Authority) -> ssl.SSLContext:
    issued = authority.issue("entry", dns=("entry.example.com",))
    return server_tls.load(issued.cert, issued.key, None)


def trusting(ca: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca)


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
async def pair(
    request: pytest.FixtureRequest, authority: Authority, context: ssl.SSLContext
) -> AsyncIterator[Pair]:
    theirs, ours = sockets()
    trust = trusting(authority.ca.cert)
    trust.maximum_version = request.param
    client, taking = TlsClient(theirs, trust, "entry.example.com"), Taking()
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        shaking = group.create_task(client.shake_hands())
        accepting = group.create_task(tls_transport.accept(ours, context, taking))
    del shaking
    transport = accepting.result()
    transport.set_write_buffer_limits(high=0)
    transport.resume_reading()
    yield Pair(client, transport, taking)
    transport.abort()
    async with asyncio.timeout(60):
        await taking.lost
    theirs.close()


async def test_bytes_arrive_in_both_directions_at_once_even_one_by_one(pair: Pair) -> None:
    up, down = pattern(20_000_000), pattern(20_000_000)[::-1]
    async with asyncio.timeout(120), asyncio.TaskGroup() as group:
        group.create_task(pair.client.send(up))
        group.create_task(pair.write(down))
        came = group.create_task(pair.client.read(len(down)))
    await pair.taking.until(lambda: len(pair.taking.came) == len(up))
    assert hashlib.sha256(pair.taking.came).digest() == hashlib.sha256(up).digest()
    assert hashlib.sha256(came.result()).digest() == hashlib.sha256(down).digest()


async def test_the_client_ends_first_and_still_gets_the_answer(pair: Pair) -> None:
    question, answer = pattern(300_000), pattern(3_000_000)
    await pair.client.send(question)
    await pair.client.end()
    await pair.taking.until(lambda: pair.taking.has_ended)
    assert bytes(pair.taking.came) == question
    async with asyncio.TaskGroup() as group:
        group.create_task(pair.write(answer))
        came = group.create_task(pair.client.read(len(answer)))
    assert came.result() == answer
    pair.transport.close()
    assert await pair.client.read() == b""
    pair.client.sock.close()
    async with asyncio.timeout(60):
        assert await pair.taking.lost is None


async def test_the_cluster_ends_its_side_and_still_gets_the_clients_bytes(pair: Pair) -> None:
    pair.transport.write(b"goodbye")
    pair.transport.write_eof()
    assert await pair.client.read() == b"goodbye"
    sent = pattern(3_000_000)
    await pair.client.send(sent)
    await pair.taking.until(lambda: len(pair.taking.came) == len(sent))
    assert bytes(pair.taking.came) == sent
    await pair.client.end()
    await pair.taking.until(lambda: pair.taking.has_ended)


async def test_an_end_of_our_side_loses_no_received_bytes_that_are_unread(pair: Pair) -> None:
    """Our close_notify waits until the protocol has read everything: OpenSSL would otherwise drop received
    bytes while it looks for the client's close_notify.
    """
    sent = pattern(500_000)
    pair.taking.buffer = bytearray(1000)  # less than OpenSSL has received by then
    pair.taking.on_data = pair.transport.pause_reading
    sending = asyncio.get_running_loop().create_task(pair.client.send(sent))
    await pair.taking.until(lambda: bool(pair.taking.came))
    pair.transport.write_eof()
    pair.taking.on_data = lambda: None
    pair.transport.resume_reading()
    await sending
    await pair.taking.until(lambda: len(pair.taking.came) == len(sent))
    assert bytes(pair.taking.came) == sent
    assert await pair.client.read() == b""


async def test_a_side_that_does_not_read_pauses_the_other(pair: Pair) -> None:
    data = pattern(1 << 20)
    for _ in range(64):
        if not pair.taking.is_writable.is_set():
            break
        pair.transport.write(data)
        await asyncio.sleep(0)
    assert not pair.taking.is_writable.is_set()
    assert pair.transport.get_write_buffer_size() > 0
    reading = asyncio.get_running_loop().create_task(pair.client.read())
    async with asyncio.timeout(60):
        await pair.taking.is_writable.wait()
    pair.transport.close()
    came = await reading
    assert len(came) % len(data) == 0
    assert came[: len(data)] == data


async def test_a_paused_protocol_gets_nothing_and_later_everything(pair: Pair) -> None:
    pair.transport.pause_reading()
    await pair.client.send(b"before")
    pair.transport.write(b"this turn of the loop and the network is over")
    await pair.client.read(45)
    assert not pair.taking.came
    pair.taking.on_data = pair.transport.pause_reading  # after each piece
    for _ in range(3):
        pair.taking.news.clear()
        pair.transport.resume_reading()
        await pair.client.send(b"more")
        await pair.taking.news.wait()
    pair.taking.on_data = lambda: None
    pair.transport.resume_reading()
    await pair.taking.until(lambda: pair.taking.came == b"before" + b"more" * 3)


async def test_a_connection_that_is_cut_is_lost_and_has_no_end_of_file(pair: Pair) -> None:
    await pair.client.send(b"half of it")
    await pair.taking.until(lambda: bool(pair.taking.came))
    pair.client.sock.close()
    async with asyncio.timeout(60):
        assert isinstance(await pair.taking.lost, ConnectionError)
    assert not pair.taking.has_ended


@pytest.mark.parametrize("after_the_end", [False, True], ids=["before", "after"])
async def test_bytes_that_are_no_tls_end_the_connection(pair: Pair, after_the_end: bool) -> None:
    if after_the_end:
        await pair.client.end()
        await pair.taking.until(lambda: pair.taking.has_ended)
    await asyncio.get_running_loop().sock_sendall(pair.client.sock, b"x" * 1000)
    async with asyncio.timeout(60):
        assert isinstance(await pair.taking.lost, OSError)
    assert not pair.taking.came


async def test_a_client_without_tls_can_be_answered(context: ssl.SSLContext) -> None:
    theirs, ours = sockets()
    with theirs:
        theirs.sendall(b"CONNECT a:1 HTTP/1.1\r\n\r\n")
        with pytest.raises(NotTls) as caught:
            await tls_transport.accept(ours, context, Taking())
        assert caught.value.first == ord("C")
        transport = caught.value.transport
        lost = Taking()
        transport.set_protocol(lost)
        transport.write(b"HTTP/1.1 400 no\r\n\r\n")
        transport.close()
        async with asyncio.timeout(60):
            assert await asyncio.get_running_loop().sock_recv(theirs, 1000) == b"HTTP/1.1 400 no\r\n\r\n"
            await lost.lost


@pytest.mark.parametrize("sent", [b"", b"\x16", b"\x16\x03\x01"], ids=["nothing", "a byte", "a start"])
async def test_a_client_that_leaves_during_the_handshake_is_an_error(
    context: ssl.SSLContext, sent: bytes
) -> None:
    theirs, ours = sockets()
    theirs.setblocking(True)
    theirs.sendall(sent)
    theirs.close()
    taking = Taking()
    async with asyncio.timeout(60):
        with pytest.raises(ConnectionError):
            await tls_transport.accept(ours, context, taking)
        assert isinstance(await taking.lost, ConnectionError)


async def test_a_handshake_that_is_cancelled_leaves_nothing(context: ssl.SSLContext) -> None:
    loop = asyncio.get_running_loop()
    theirs, ours = sockets()
    with theirs:
        taking = Taking()
        accepting = Tasks("test").spawn(tls_transport.accept(ours, context, taking), name="accept")
        await loop.sock_sendall(theirs, client_hello())
        async with asyncio.timeout(60):
            assert await loop.sock_recv(theirs, 10), "the server has begun the handshake"
            accepting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await accepting
            await taking.lost
            while await loop.sock_recv(theirs, 10_000):
                pass
    assert ours.fileno() == -1


async def test_a_handshake_that_is_cancelled_at_once_leaves_nothing(context: ssl.SSLContext) -> None:
    theirs, ours = sockets()
    with theirs:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await tls_transport.accept(ours, context, Taking())
        async with asyncio.timeout(60):
            assert await asyncio.get_running_loop().sock_recv(theirs, 10) == b""
    assert ours.fileno() == -1


def client_hello() -> bytes:
    out = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname="a").do_handshake()
    return out.read()
