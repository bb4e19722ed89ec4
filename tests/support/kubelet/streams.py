"""The streams of a client that wants a terminal, by either upgrade: stdin, stdout, stderr, error, resize."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from typing import Final

from tests.support.kubelet.spdy import Data, Opened, Spdy
from tests.support.kubelet.websocket import BINARY, CLOSE, PING, PONG, Decoder, Frame, accept_key, encode

PROTOCOL: Final = "v4.channel.k8s.io"
CHANNELS: Final = ("stdin", "stdout", "stderr", "error", "resize")
"""By the number that begins each of its WebSocket messages."""

_CHUNK: Final = 64 << 10


class Streams(ABC):
    """One client's streams."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @abstractmethod
    async def open(self, wanted: set[str]) -> None:
        """Return when these are open. Raises EOFError."""

    @abstractmethod
    def received(self) -> AsyncIterator[tuple[str, bytes]]:
        """What comes, with the name of its stream; nothing is the end of that stream."""

    @abstractmethod
    def send(self, stream: str, data: bytes) -> None: ...

    @abstractmethod
    def end(self) -> None:
        """Say that nothing more comes."""

    async def finish(self, code: int) -> None:
        """Tell how the command has ended, and wait until the client leaves."""
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
    """SPDY has a stream of its own for each of them, and the client opens it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(reader, writer)
        self._spdy = Spdy(writer.write)
        self._ids: dict[str, int] = {}
        self._early: list[tuple[str, bytes]] = []

    @staticmethod
    def head(_: Mapping[str, str]) -> list[str]:
        return ["Upgrade: SPDY/3.1", f"X-Stream-Protocol-Version: {PROTOCOL}"]

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
    """In a WebSocket each message begins with the number of its stream. A client cannot end its stdin."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(reader, writer)
        self._decoder = Decoder()

    @staticmethod
    def head(fields: Mapping[str, str]) -> list[str]:
        key = accept_key(fields["sec-websocket-key"])
        return ["Upgrade: websocket", f"Sec-WebSocket-Accept: {key}", f"Sec-WebSocket-Protocol: {PROTOCOL}"]

    async def open(self, wanted: set[str]) -> None:
        """They are there from the beginning."""

    async def received(self) -> AsyncIterator[tuple[str, bytes]]:
        while data := await self._reader.read(_CHUNK):
            for frame in self._decoder.feed(data):
                match frame:
                    case Frame(kind, payload) if kind == BINARY:
                        yield CHANNELS[payload[0]], payload[1:]
                    case Frame(kind, payload) if kind == PING:
                        self._frame(PONG, payload)
                    case Frame(kind) if kind == CLOSE:
                        return

    def send(self, stream: str, data: bytes) -> None:
        self._frame(BINARY, bytes((CHANNELS.index(stream),)) + data)

    def end(self) -> None:
        self._frame(CLOSE, b"\x03\xe8")  # 1000: a normal end (7.4.1)

    def _frame(self, kind: int, payload: bytes) -> None:
        self._writer.write(encode(Frame(kind, payload), masked=False))
