"""Apps of the test's own behind real sockets: streams, slow readers, and the stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from proxy.admin.http import lingering
from proxy.admin.http.connection import Deadlines
from proxy.admin.http.serving import Serving
from tests.support.serving import closed, send

SECONDS = 30.0
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"

pytestmark = pytest.mark.both_loops

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def serving(app: ASGIApp, path: Path, deadlines: Deadlines | None = None) -> AsyncIterator[Serving]:
    served = Serving(app, name="test", deadlines=deadlines)
    server = await asyncio.get_running_loop().create_unix_server(served, path)
    try:
        async with asyncio.timeout(SECONDS):
            yield served
    finally:
        server.close()
        await served.close(grace=0)


@asynccontextmanager
async def client(path: Path) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def everything(reader: asyncio.StreamReader) -> bytes:
    """Read until EOF or a reset."""
    got = b""
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            got += data
    return got


class Stream:
    """An app that sends its first piece at once, another one for each `go`, and never ends by itself."""

    def __init__(self, piece: bytes = b"piece\n") -> None:
        self._piece = piece
        self.go = asyncio.Event()
        self.task = ""
        self.over = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.task = task.get_name()
        try:
            async with aclosing(self._pieces()) as pieces:
                await StreamingResponse(pieces)(scope, receive, send)
        finally:
            self.over.set()

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        while True:
            yield self._piece
            await self.go.wait()
            self.go.clear()


async def test_a_stream_is_sent_piece_by_piece_by_a_task_with_a_name(tmp_path: Path) -> None:
    stream = Stream()
    async with serving(stream, tmp_path / "s"), client(tmp_path / "s") as (reader, writer):
        writer.write(GET)
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"Transfer-Encoding: chunked" in head
        for _ in range(3):
            assert await reader.readuntil(b"piece\n\r\n") == b"6\r\npiece\n\r\n"
            stream.go.set()
        assert stream.task == "test/request"


async def test_a_stop_ends_a_stream_so_that_it_does_not_look_complete(tmp_path: Path) -> None:
    stream = Stream()
    async with serving(stream, tmp_path / "s") as served, client(tmp_path / "s") as (reader, writer):
        writer.write(GET)
        await reader.readuntil(b"piece\n\r\n")
        await served.close(grace=0.05)
        assert stream.over.is_set()
        assert len(served) == 0
        assert await everything(reader) == b""


@pytest.mark.both_loops(pauses=True)
async def test_a_stop_does_not_wait_for_a_client_that_does_not_read(tmp_path: Path) -> None:
    stream = Stream(b"x" * (16 << 20))
    async with serving(stream, tmp_path / "s") as served, client(tmp_path / "s") as (reader, writer):
        writer.write(GET)
        await reader.readline()
        await served.close(grace=0.05)
        assert stream.over.is_set()
        assert len(await everything(reader)) < 16 << 20


@pytest.mark.parametrize("how", ["client", "deadline"])
async def test_a_stream_ends_when_its_client_leaves_or_its_time_is_over(tmp_path: Path, how: str) -> None:
    stream = Stream()
    deadlines = Deadlines(answer=0.05 if how == "deadline" else 60.0)
    async with serving(stream, tmp_path / "s", deadlines), client(tmp_path / "s") as (reader, writer):
        writer.write(GET)
        if how == "client":
            await reader.readuntil(b"piece\n\r\n")
            await closed(writer)
            # A client may half-close and still read: only a failed write shows that it is gone.
            stream.go.set()
        await stream.over.wait()


async def test_an_answer_that_takes_too_long_to_make_is_given_up(tmp_path: Path) -> None:
    async def stuck(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    limited = serving(stuck, tmp_path / "s", Deadlines(answer=0.05))
    async with limited, client(tmp_path / "s") as (reader, writer):
        writer.write(GET)
        assert await everything(reader) == b""


async def test_a_stop_lets_an_order_be_answered(tmp_path: Path) -> None:
    entered, released = asyncio.Event(), asyncio.Event()

    async def order(scope: Scope, receive: Receive, send: Send) -> None:
        entered.set()
        await released.wait()
        await PlainTextResponse("done")(scope, receive, send)

    path = tmp_path / "s"
    async with serving(order, path) as served, client(path) as (reader, writer), client(path) as (idle, _):
        writer.write(GET.replace(b"GET", b"POST"))
        await entered.wait()
        async with asyncio.TaskGroup() as group:
            group.create_task(served.close(grace=SECONDS))
            assert await idle.read() == b""
            released.set()
            assert (await reader.read()).endswith(b"\r\n\r\ndone")


async def test_an_error_in_the_middle_of_an_answer_cuts_the_answer_off(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def pieces() -> AsyncGenerator[bytes, None]:
        yield b"piece\n"
        raise RuntimeError("in the middle")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(pieces()) as sent:
            await StreamingResponse(sent)(scope, receive, send)

    async with serving(app, tmp_path / "s"), client(tmp_path / "s") as (reader, writer):
        writer.write(GET)
        answer = await everything(reader)
    assert answer.endswith(b"piece\n\r\n"), (
        "there is no last chunk, so the client sees that the answer is incomplete"
    )
    said = capsys.readouterr().out
    assert said.count("admin request failed") == 1
    assert "in the middle" in said


async def test_a_request_that_arrives_byte_by_byte_does_not_extend_its_deadline(tmp_path: Path) -> None:
    async def never(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError

    limited = serving(never, tmp_path / "s", Deadlines(request=0.2))
    async with limited, client(tmp_path / "s") as (reader, writer), asyncio.TaskGroup() as group:
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nX: ")
        read = group.create_task(everything(reader))
        with suppress(ConnectionError):
            while not read.done():
                send(writer, b"y")
                await asyncio.wait([read], timeout=0.01)
        assert read.result() == b""


async def test_the_answer_does_not_wait_for_an_expected_body(tmp_path: Path) -> None:
    """The app does not read the body, so the server may answer at once (RFC 9110 10.1.1)."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse(f"{Request(scope).method}\n")(scope, receive, send)

    async with serving(app, tmp_path / "s"), client(tmp_path / "s") as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n")
        answer = await everything(reader)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nConnection: close\r\n" in answer
    assert answer.endswith(b"\r\n\r\nPOST\n")


async def test_a_client_that_is_still_sending_gets_its_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 9112 9.6: if the server closed at once, with bytes unread, the kernel would reset the
    connection.
    """
    monkeypatch.setattr(lingering, "LINGER_S", 60.0)  # a busy machine may stop the client for a second

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("no")(scope, receive, send)

    async with serving(app, tmp_path / "s"), client(tmp_path / "s") as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n")
        for _ in range(64):
            writer.write(b"z" * 65536)
            await writer.drain()
        assert (await reader.read()).endswith(b"\r\n\r\nno")
