"""WebSocket frames (RFC 6455), for both sides. Fragments, which nobody sends here, are not put together."""

from __future__ import annotations

import base64
import hashlib
import secrets
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

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
    """What the server answers to the client's `Sec-WebSocket-Key`."""
    return base64.b64encode(hashlib.sha1(f"{key}{_GUID}".encode()).digest()).decode()  # noqa: S324 - the RFC's


def encode(frame: Frame, *, masked: bool) -> bytes:
    """The bytes of a frame; those of a client are masked (5.3)."""
    size = len(frame.payload)
    mark = masked << 7
    head = bytes((0x80 | frame.kind,))
    head += bytes((mark | size,)) if size < 126 else struct.pack(">BH", mark | 126, size)
    if not masked:
        return head + frame.payload
    mask = secrets.token_bytes(4)
    return head + mask + _mask(frame.payload, mask)


class Decoder:
    """Makes frames of the bytes that arrive."""

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


def _mask(data: bytes, mask: bytes) -> bytes:
    return bytes(byte ^ mask[n % 4] for n, byte in enumerate(data))
