"""The servers of the node's ports."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qs, urlsplit

from tests.support.kubelet.spdy import Data, Opened, Spdy
from tests.support.kubelet.streams import SpdyStreams, Streams, WebSocketStreams, websocket_head
from tests.support.kubelet.terminal import Terminal
from tests.support.kubelet.websocket import Tunnel

GROUP: Final = "stand-in.example.com"
"""The group of the aggregated API."""

_JSON: Final = "application/json"
_STREAMS: Final = {"input": "stdin", "output": "stdout", "error": "stderr", "tty": "resize"}
"""The stream that each parameter of an exec or attach request asks for. `error` is always there."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request with its body."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    fields: Mapping[str, str]
    body: bytes

    @property
    def upgrade(self) -> str:
        """The protocol to which the client wants to upgrade."""
        return self.fields.get("upgrade", "").lower()


async def read(reader: asyncio.StreamReader) -> Request:
    """The next request of a connection. Raises EOFError."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *lines = head.strip().split("\r\n")
    method, target, _ = line.split()
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(fields.get("content-length", "0")))
    url = urlsplit(target)
    return Request(method, url.path, parse_qs(url.query), fields, body)


class Node:
    """All its ports share the log of its only container. The log has a line for each request to the
    container's web server, and for each request through the `proxy` subresource of the node.

    `/upgrades` of the kubelet lists the upgrades of its clients since the last call, for instance
    `exec by SPDY`.
    """

    def __init__(self) -> None:
        self._lines = [b"started\n"]
        self._grown = asyncio.Condition()
        self._upgrades: list[str] = []

    async def kubelet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a client of the kubelet's port."""
        request = await read(reader)
        if request.upgrade:
            action = request.path.split("/")[1]
            is_websocket = request.upgrade == "websocket"
            self._upgrades.append(f"{action} by {'WebSocket' if is_websocket else 'SPDY'}")
            if action == "portForward":
                await _forward(request, reader, writer)
                return
            kind = WebSocketStreams if is_websocket else SpdyStreams
            _switch(writer, kind.head(request.fields))
            # To attach, kubectl sends a wrong size first, so that a program draws its screen again.
            await _exec(request, kind(reader, writer), sizes=2 if action == "attach" else 1)
        elif request.path.startswith("/containerLogs/"):
            await self._follow(writer)
        elif request.path == "/upgrades":
            _answer(writer, json.dumps(self._upgrades).encode(), _JSON)
            self._upgrades.clear()
        else:
            await self._log(request)
            _answer(writer, f"kubelet: {request.path}\n".encode(), "text/plain")

    async def web(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a client of the container's web server."""
        request = await read(reader)
        await self._log(request)
        _answer(writer, f"web: {request.path}\n".encode(), "text/plain")

    async def service(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a client of the Service: a webhook that denies everything, and an aggregated API."""
        request = await read(reader)
        answer: dict[str, object] = {"kind": "Said", "apiVersion": f"{GROUP}/v1", "path": request.path}
        if request.method == "POST":
            review = json.loads(request.body)
            status = {"message": "the webhook has been asked"}
            verdict = {"uid": review["request"]["uid"], "allowed": False, "status": status}
            answer = {"kind": review["kind"], "apiVersion": review["apiVersion"], "response": verdict}
        elif request.path == f"/apis/{GROUP}/v1":
            answer = {"kind": "APIResourceList", "groupVersion": f"{GROUP}/v1", "resources": []}
        _answer(writer, json.dumps(answer).encode(), _JSON)

    async def _log(self, request: Request) -> None:
        async with self._grown:
            self._lines.append(f"{request.method} {request.path}\n".encode())
            self._grown.notify_all()

    async def _follow(self, writer: asyncio.StreamWriter) -> None:
        head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
        writer.write(head.encode())
        sent = 0
        while not writer.is_closing():
            for line in self._lines[sent:]:
                writer.write(b"%x\r\n%b\r\n" % (len(line), line))
            sent = len(self._lines)
            await writer.drain()
            async with self._grown:
                await self._grown.wait_for(lambda: len(self._lines) > sent)  # noqa: B023 - waited for here


def _answer(writer: asyncio.StreamWriter, body: bytes, kind: str) -> None:
    head = (
        f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    writer.write(head.encode() + body)


def _switch(writer: asyncio.StreamWriter, lines: list[str]) -> None:
    head = ["HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", *lines, "", ""]
    writer.write("\r\n".join(head).encode())


async def _exec(request: Request, streams: Streams, *, sizes: int) -> None:
    terminal = Terminal(is_tty="tty" in request.query, sizes=sizes)
    await streams.open({"error", *(_STREAMS[word] for word in request.query.keys() & _STREAMS)})
    if "input" not in request.query:
        _, *words = request.query["command"]  # `echo` with any arguments
        streams.send("stdout", " ".join(words).encode() + b"\n")
        await streams.finish(0)
        return
    async for stream, data in streams.received():
        if stream == "resize":
            streams.send("stdout", terminal.resize(data))
        elif stream == "stdin":
            streams.send("stdout", terminal.typed(data))
            if terminal.code is not None:
                await streams.finish(terminal.code)
                return


async def _forward(request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve port-forward: echo all bytes to any port, on the streams of each of the client's connections.

    By WebSocket, the messages contain SPDY frames.
    """
    way: Tunnel | None = None
    if request.upgrade == "websocket":
        way = Tunnel(reader, writer)
        _switch(writer, websocket_head(request.fields, "SPDY/3.1+portforward.k8s.io"))
    else:
        _switch(writer, ["Upgrade: SPDY/3.1", "X-Stream-Protocol-Version: portforward.k8s.io"])
    spdy = Spdy((way or writer).write)
    errors: dict[str, int] = {}
    requests: dict[int, str] = {}
    while received := await (way or reader).read(1 << 16):
        for event in spdy.feed(received):
            match event:
                case Opened(stream, {"streamtype": "error", "requestid": asked}):
                    errors[asked] = stream
                    spdy.accept(stream)
                case Opened(stream, {"requestid": asked}):
                    requests[stream] = asked
                    spdy.accept(stream)
                case Data(stream, data, is_last) if stream in requests:
                    spdy.send(stream, data, is_last=is_last)
                    if is_last:
                        spdy.send(errors[requests[stream]], b"", is_last=True)
