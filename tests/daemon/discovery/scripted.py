"""An API server whose answers the test scripts."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qsl, urlsplit

from tests.support.serving import Server

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


class ScriptedApi(Server):
    """Answers requests with the `answers`, in order; without one it never answers. An answer whose name is
    `final` ends the connection.
    """

    def __init__(self, tls: ssl.SSLContext) -> None:
        super().__init__(tls=tls)
        self.answers: list[Answer] = []
        self.asked: list[dict[str, str]] = []
        """The query of each request; `path` is its path, `time` the loop's clock."""
        self.headers = b""
        self._news = asyncio.Condition()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await self._head(reader):
            self.headers = head
            url = urlsplit(head.split()[1].decode("ascii"))
            time = str(asyncio.get_running_loop().time())
            async with self._news:
                self.asked.append({"path": url.path, "time": time, **dict(parse_qsl(url.query))})
                self._news.notify_all()
            if not self.answers:
                await reader.read()
                return
            answer = self.answers.pop(0)
            await answer(writer)
            await writer.drain()
            if answer.__name__ == "final":
                return

    async def _head(self, reader: asyncio.StreamReader) -> bytes:
        try:
            return await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return b""

    async def wait_asked(self, number: int) -> None:
        """Wait until so many requests have come."""
        async with asyncio.timeout(30), self._news:
            await self._news.wait_for(lambda: len(self.asked) >= number)


def pod(name: str, address: str | None, phase: str = "Running", **metadata: str) -> dict[str, object]:
    """A pod of namespace team-a."""
    return {
        "metadata": {"name": name, "namespace": "team-a", "resourceVersion": "5", **metadata},
        "status": {"phase": phase, **({"podIP": address} if address is not None else {})},
    }


def event(kind: str, item: dict[str, object]) -> bytes:
    return json.dumps({"type": kind, "object": item}).encode() + b"\n"


def bookmark(version: str) -> bytes:
    return event("BOOKMARK", {"kind": "Pod", "metadata": {"resourceVersion": version}})


def raw(data: bytes) -> Answer:
    """Send `data` unchanged, and close the connection."""

    async def final(writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    return final


def status(code: int, body: bytes = b"") -> Answer:
    return raw(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (code, len(body), body))


def listed(*pods: dict[str, object], version: str = "100", more: str = "") -> Answer:
    """The answer with one page of pods."""
    body = json.dumps(
        {"metadata": {"resourceVersion": version, "continue": more}, "items": list(pods)}
    ).encode()

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    return answer


class Watched:
    """The answer to a watch: `send` sends lines on it, and `end` ends it."""

    def __init__(self, *lines: bytes) -> None:
        self._lines: asyncio.Queue[bytes] = asyncio.Queue()
        for line in lines:
            self.send(line)
        self.__name__ = "answer"

    def send(self, line: bytes) -> None:
        self._lines.put_nowait(line)

    def end(self) -> None:
        self._lines.put_nowait(b"")

    async def __call__(self, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED)
        while True:
            line = await self._lines.get()
            writer.write(b"%x\r\n%s\r\n" % (len(line), line))
            await writer.drain()
            if not line:
                return
