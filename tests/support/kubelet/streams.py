"""The streams of an exec or attach client, by SPDY or WebSocket: stdin, stdout, stderr, error, resize."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from typing import Final

from tests.support.kubelet.spdy import Data, Opened, Spdy
from tests.support.kubelet.websocket import CLOSE, Frame, Tunnel, accept_key, encode

CHANNELS: Final = ("stdin", "stdout", "stderr", "error", "resize")
"""The names of the streams; the first byte of each WebSocket message is an index into it."""
END: Final = 255
"""The first byte of a message that ends a client's stream. The stream's number follows."""

_CHUNK: Final = 64 << 10


class Streams(ABC):
    """One client's streams."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @abstractmethod
    async def open(self, wanted: set[str]) -> None:
        """Wait until these streams are open. Raises EOFError."""

    @abstractmethod
    def received(self) -> AsyncIterator[tuple[str, bytes]]:
        """The next bytes, with the name of their stream; empty at the end of the stream."""

    @abstractmethod
    def send(self, stream: str, data: bytes) -> None: ...

    @abstractmethod
    def end(self) -> None:
        """Tell the client that no more data follows."""

    async def finish(self, code: int) -> None:
        """Send the result of the command, and wait until the client disconnects."""
        status: dict[str, object] = {"metadata": {}, "status": "Success"}
        if code:
            causes = [{"reason": "ExitCode", "message": str(code)}]
            message = f"command terminated with exit code {code}"
            status |= {"status": "Failure", "reason": "NonZeroExitCode", "message": message}
            status["details"] = {"causes": causes}
        self.send("error", json.dumps(status).encode())
        self.end()
        await self._writer.drain()
        while await self._reader.read(_CHUNK):
            pass


class SpdyStreams(Streams):
    """By SPDY, the client opens an SPDY stream for each of them."""

    PROTOCOL: Final = "v4.channel.k8s.io"

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(reader, writer)
        self._spdy = Spdy(writer.write)
        self._ids: dict[str, int] = {}
        self._early: list[tuple[str, bytes]] = []

    @classmethod
    def head(cls, _: Mapping[str, str]) -> list[str]:
        return ["Upgrade: SPDY/3.1", f"X-Stream-Protocol-Version: {cls.PROTOCOL}"]

    async def open(self, wanted: set[str]) -> None:
        while not wanted <= self._ids.keys():
            if not (data := await self._reader.read(_CHUNK)):
                raise EOFError
            self._early += self._said(data)

    async def received(self) -> AsyncIterator[tuple[str, bytes]]:
        for one in self._early:
            yield one
        while data := await self._reader.read(_CHUNK):
            for one in self._said(data):
                yield one

    def send(self, stream: str, data: bytes) -> None:
        self._spdy.send(self._ids[stream], data)

    def end(self) -> None:
        for stream in self._ids.keys() & {"stdout", "stderr", "error"}:
            self._spdy.send(self._ids[stream], b"", is_last=True)

    def _said(self, data: bytes) -> list[tuple[str, bytes]]:
        said: list[tuple[str, bytes]] = []
        for event in self._spdy.feed(data):
            match event:
                case Opened(stream, headers):
                    self._spdy.accept(stream)
                    self._ids[headers["streamtype"]] = stream
                case Data(stream, data, is_last):
                    [name] = (name for name, number in self._ids.items() if number == stream)
                    said += [(name, data)] if data else []
                    said += [(name, b"")] if is_last else []
        return said


class WebSocketStreams(Streams):
    """By WebSocket, each message begins with the number of its stream."""

    PROTOCOL: Final = "v5.channel.k8s.io"

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(reader, writer)
        self._tunnel = Tunnel(reader, writer)

    @classmethod
    def head(cls, fields: Mapping[str, str]) -> list[str]:
        return websocket_head(fields, cls.PROTOCOL)

    async def open(self, wanted: set[str]) -> None:
        """Return at once: the streams exist from the beginning."""

    async def received(self) -> AsyncIterator[tuple[str, bytes]]:
        while message := await self._tunnel.read():
            if message[0] == END:
                yield CHANNELS[message[1]], b""
            else:
                yield CHANNELS[message[0]], message[1:]

    def send(self, stream: str, data: bytes) -> None:
        self._tunnel.write(bytes((CHANNELS.index(stream),)) + data)

    def end(self) -> None:
        self._writer.write(encode(Frame(CLOSE, b"\x03\xe8")))  # 1000: a normal end (7.4.1)


def websocket_head(fields: Mapping[str, str], protocol: str) -> list[str]:
    """The header fields of the server's answer to a WebSocket client."""
    key = accept_key(fields["sec-websocket-key"])
    return ["Upgrade: websocket", f"Sec-WebSocket-Accept: {key}", f"Sec-WebSocket-Protocol: {protocol}"]
