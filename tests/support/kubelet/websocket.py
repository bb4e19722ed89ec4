"""The server's side of WebSocket (RFC 6455). Fragmented messages are not supported."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import struct
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Final

CONTINUATION: Final = 0
BINARY: Final = 2
CLOSE: Final = 8
PING: Final = 9
PONG: Final = 10

_GUID: Final = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 1.3


@dataclass(frozen=True, slots=True)
class Frame:
    kind: int
    payload: bytes


def accept_key(key: str) -> str:
    """The server's `Sec-WebSocket-Accept` for the client's `Sec-WebSocket-Key`."""
    return base64.b64encode(hashlib.sha1(f"{key}{_GUID}".encode()).digest()).decode()  # noqa: S324 - the RFC's


def encode(frame: Frame) -> bytes:
    """The bytes of a frame."""
    size = len(frame.payload)
    if size < 126:
        head = bytes((0x80 | frame.kind, size))
    elif size < 1 << 16:
        head = struct.pack(">BBH", 0x80 | frame.kind, 126, size)
    else:
        head = struct.pack(">BBQ", 0x80 | frame.kind, 127, size)
    return head + frame.payload


class Decoder:
    """Parses frames from received bytes."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        self._held += data
        while len(self._held) >= 2:
            first, second = self._held[:2]
            size, at = second & 0x7F, 2
            if size >= 126:
                width = 2 if size == 126 else 8
                size, at = int.from_bytes(self._held[2 : 2 + width], "big"), 2 + width
            is_masked = second >> 7
            end = at + 4 * is_masked + size
            if len(self._held) < end:
                return
            payload = bytes(self._held[end - size : end])
            if is_masked:
                payload = _mask(payload, bytes(self._held[at : at + 4]))
            del self._held[:end]
            yield Frame(first & 0x0F, payload)


class Tunnel:
    """A stream of bytes in the messages of a WebSocket, with the methods of asyncio's streams."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._frames = self._received()

    async def read(self, size: int = 1 << 16) -> bytes:
        """The bytes of the next message; empty at the end. A message may be larger than `size`."""
        return await anext(self._frames, b"")

    def write(self, data: bytes) -> None:
        self._writer.write(encode(Frame(BINARY, data)))

    async def _received(self) -> AsyncIterator[bytes]:
        decoder = Decoder()
        while data := await self._reader.read(1 << 16):
            for frame in decoder.feed(data):
                match frame:
                    case Frame(kind, payload) if kind in (BINARY, CONTINUATION):
                        if payload:  # kubectl sends empty messages, too
                            yield payload
                    case Frame(kind, payload) if kind == PING:
                        self._writer.write(encode(Frame(PONG, payload)))
                    case Frame(kind) if kind == CLOSE:
                        return


def _mask(data: bytes, mask: bytes) -> bytes:
    return bytes(byte ^ mask[n % 4] for n, byte in enumerate(data))
