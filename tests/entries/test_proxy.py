"""The proxy entry with real sockets, and with a scripted destination or an echo server."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import cast

import pytest
from structlog.testing import capture_logs

from proxy.entries import proxy as module
from proxy.entries.arrival import Arrival, Caller, SocketArrival
from proxy.entries.heads import Credentials, Head, begin
from proxy.entries.proxy import ProxyEntry
from proxy.errors.reasons import Reason
from proxy.metrics import EntryRecord
from proxy.runtime.endpoint import Endpoint
from proxy.runtime.tasks import Tasks
from tests.support.deadlines import Deadline

CONNECT = b"CONNECT prod:443 HTTP/1.1\r\nHost: prod\r\n\r\n"
ACCEPTED = b"HTTP/1.1 200 Connection established\r\n\r\n"
SOCKS_ACCEPTED = b"\x05\x00\x05\x00\x00\x01" + bytes(6)
SOCKS = b"\x05\x01\x00\x05\x01\x00\x03\x04prod\x01\xbb"

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Echoing(asyncio.BufferedProtocol):
    """Replaces a relay: sends back what the client sends."""

    def __init__(self, early: bytes) -> None:
        self._early = early
        self._buffer = bytearray(1024)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self._early:
            self._transport.write(self._early)

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        return memoryview(self._buffer)

    def buffer_updated(self, nbytes: int) -> None:
        self._transport.write(bytes(self._buffer[:nbytes]))


class Stage:
    """An entry, and the results of its clients."""

    def __init__(self, entry_of: Callable[[Stage], ProxyEntry] | None = None) -> None:
        self.record = EntryRecord()
        self.arrivals: list[Arrival] = []
        self.refusal: tuple[Reason, str] | None = None
        self.tasks = Tasks("stage")
        self.entry = entry_of(self) if entry_of else ProxyEntry("proxy", self.record, self.on_arrival)

    def on_arrival(self, arrival: Arrival) -> None:
        self.arrivals.append(arrival)
        if self.refusal:
            arrival.refuse(*self.refusal)
            arrival.ended(self.refusal[0])
        else:
            self.tasks.spawn(self._start(arrival), name="start")

    async def _start(self, arrival: Arrival) -> None:
        assert isinstance(arrival, SocketArrival)
        await arrival.start(Echoing(arrival.early))

    async def connect(self) -> Connection:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            connection = await asyncio.open_connection(*listener.getsockname())
            sock, address = listener.accept()
        sock.setblocking(False)
        self.entry.accept(sock, Caller(Endpoint(*address)))
        return connection

    async def results(self, *expected: Reason) -> None:
        """Wait until exactly these results have been counted."""
        async with asyncio.timeout(30):
            while sorted(self.record.results.elements()) != sorted(expected):
                await asyncio.sleep(0.001)


@asynccontextmanager
async def stage(entry_of: Callable[[Stage], ProxyEntry] | None = None) -> AsyncIterator[Stage]:
    one = Stage(entry_of)
    try:
        yield one
    finally:
        await one.entry.close()
        await one.tasks.close()


async def close(connection: Connection) -> None:
    connection[1].close()
    with suppress(ConnectionError):
        await connection[1].wait_closed()


async def whole(connection: Connection) -> bytes:
    """Read everything until EOF; a reset would raise."""
    async with asyncio.timeout(30):
        text = await connection[0].read()
    await close(connection)
    return text


@pytest.mark.both_loops
@pytest.mark.parametrize("size", [1, 7, 1 << 16], ids=["by bytes", "in pieces", "at once"])
@pytest.mark.parametrize(
    ("request_bytes", "answer"), [(CONNECT, ACCEPTED), (SOCKS, SOCKS_ACCEPTED)], ids=["CONNECT", "SOCKS5"]
)
async def test_bytes_behind_the_request_reach_the_target(
    request_bytes: bytes, answer: bytes, size: int
) -> None:
    sent = request_bytes + b"early"
    async with stage() as one:
        reader, writer = connection = await one.connect()
        for start in range(0, len(sent), size):
            writer.write(sent[start : start + size])
            await writer.drain()
        async with asyncio.timeout(30):
            assert await reader.readexactly(len(answer) + 5) == answer + b"early"
            writer.write(b"later")
            assert await reader.readexactly(5) == b"later"
        [arrival] = one.arrivals
        assert (arrival.entry, arrival.asked) == ("proxy", Endpoint("prod", 443))
        await close(connection)


async def test_a_refusal_is_read_however_much_the_client_goes_on_sending() -> None:
    async with stage() as one:
        one.refusal = Reason.LINK_DOWN, "gateway edge has no link"
        connection = await one.connect()
        connection[1].write(CONNECT + bytes(200_000))
        status, _, rest = (await whole(connection)).partition(b"\r\n")
        assert status == b"HTTP/1.1 503 kubemux: prod: link_down (gateway edge has no link)"
        assert rest.endswith(b"\r\n\r\nkubemux: prod: link_down (gateway edge has no link)\n")
        await one.results(Reason.LINK_DOWN)


async def test_a_client_that_sends_a_gigabyte_is_cut_off() -> None:
    async with stage() as one:
        reader, writer = connection = await one.connect()
        with suppress(ConnectionError):
            async with asyncio.timeout(30):
                while True:
                    writer.write(bytes(1 << 16))
                    await writer.drain()
        await one.results(Reason.BAD_REQUEST)
        del reader
        await close(connection)


async def test_a_request_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    deadline, has_begun = Deadline(monkeypatch, module.HEAD_S), asyncio.Event()

    def begin_and_tell(first: int, *, needs_user: bool) -> Head:
        has_begun.set()
        return begin(first, needs_user=needs_user)

    monkeypatch.setattr(module, "begin", begin_and_tell)
    async with stage() as one:
        silent, dripping = await one.connect(), await one.connect()
        dripping[1].write(CONNECT[:20])
        async with asyncio.timeout(30):
            await has_begun.wait()
        deadline.passes()
        assert await whole(silent) == b""
        assert (await whole(dripping)).startswith(b"HTTP/1.1 408 kubemux: head_timeout (no request within")
        await one.results(Reason.HEAD_TIMEOUT, Reason.HEAD_TIMEOUT)


async def test_one_client_too_many_ends_the_oldest_that_has_not_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MOST_HEADS", 2)
    async with stage() as one:
        connections = [await one.connect() for _ in range(3)]
        assert await whole(connections[0]) == b""
        for connection in connections[1:]:
            connection[1].write(CONNECT)
            async with asyncio.timeout(30):
                assert await connection[0].readexactly(len(ACCEPTED)) == ACCEPTED
            await close(connection)
        assert one.record.results == {Reason.SHUTDOWN: 1}


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (CONNECT[:-2], b"HTTP/1.1 400 kubemux: bad_request (the request is not complete)\r\n"),
        (SOCKS[:1], b"\x05\xff"),
        (SOCKS[:-1], b"\x05\x00\x05\x01\x00\x01" + bytes(6)),
    ],
    ids=["CONNECT", "SOCKS5's methods", "SOCKS5's request"],
)
async def test_an_incomplete_request_is_answered_with_an_error(sent: bytes, answer: bytes) -> None:
    async with stage() as one:
        connection = await one.connect()
        connection[1].write(sent)
        connection[1].write_eof()
        assert (await whole(connection)).startswith(answer)
        await one.results(Reason.BAD_REQUEST)


async def test_an_error_of_ours_is_answered_and_counted() -> None:
    """kube-apiserver waits for an answer for ever."""

    async def broken(caller: Caller) -> None:
        raise RuntimeError(f"nobody expected {caller}")

    def entry_of(one: Stage) -> ProxyEntry:
        return ProxyEntry("proxy", one.record, one.on_arrival, check_caller=broken)

    with capture_logs() as logs:
        async with stage(entry_of) as one:
            connection = await one.connect()
            connection[1].write(b"CONNECT prod:443 HTTP/1.1\r\n\r\n")
            assert (await whole(connection)).startswith(b"HTTP/1.1 500 kubemux: ")
            await one.results(Reason.INTERNAL)
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["task failed"]


async def test_a_client_that_leaves_is_counted() -> None:
    async with stage() as one:
        for _ in range(2):
            await close(await one.connect())
        await one.results(Reason.CLIENT_RESET, Reason.CLIENT_RESET)
        assert (one.record.active, one.arrivals) == (0, [])


async def test_a_password_is_checked_before_anything_is_looked_up() -> None:
    async def check(credentials: Credentials) -> bool:
        return (credentials.user, credentials.password) == ("ci", "secret")

    def entry(one: Stage) -> ProxyEntry:
        return ProxyEntry("proxy", one.record, one.on_arrival, check_login=check)

    request = b"CONNECT prod:443 HTTP/1.1\r\nProxy-Authorization: Basic %b\r\n\r\n"
    async with stage(entry) as one:
        for wrong in (CONNECT, request % b"Y2k6d3Jvbmc="):
            connection = await one.connect()
            connection[1].write(wrong)
            assert (await whole(connection)).startswith(b"HTTP/1.1 407 kubemux: auth_required")
        assert one.arrivals == []
        connection = await one.connect()
        connection[1].write(request % b"Y2k6c2VjcmV0")
        async with asyncio.timeout(30):
            assert await connection[0].readexactly(len(ACCEPTED)) == ACCEPTED
        assert one.arrivals[0].caller.proved == {"proxy-user:ci"}
        await close(connection)


async def test_close_ends_those_that_wait_for_an_answer() -> None:
    async with stage() as one:
        one.entry = ProxyEntry("proxy", one.record, one.arrivals.append)
        asked, silent = await one.connect(), await one.connect()
        asked[1].write(CONNECT)
        async with asyncio.timeout(30):
            while not one.arrivals:
                await asyncio.sleep(0.001)
        await one.entry.close()
        for connection in (asked, silent):
            with suppress(ConnectionResetError):
                assert await whole(connection) == b""


@pytest.mark.both_loops
async def test_a_client_that_connects_while_the_entry_closes_is_counted() -> None:
    async with stage() as one:
        connection = await one.connect()
        await one.entry.close()  # before the client's task has begun
        with suppress(ConnectionError):
            assert await whole(connection) == b""
        assert (one.record.active, [*one.record.results]) == (0, [Reason.SHUTDOWN])


async def test_clients_that_come_in_one_turn_of_the_loop_each_replace_an_older_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MOST_HEADS", 2)
    pairs = [socket.socketpair() for _ in range(5)]
    async with stage() as one:
        for ours, theirs in pairs:
            ours.setblocking(False)
            one.entry.accept(ours, Caller(None))
            assert f"requests={min(2, one.record.opened)} " in repr(one.entry)
            theirs.settimeout(60)
        await one.results(*[Reason.SHUTDOWN] * 3)
        assert one.record.active == 2
    for _, theirs in pairs:
        theirs.close()
