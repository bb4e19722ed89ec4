"""The server's side of SPDY/3.1, as far as kubectl uses it for exec, attach and port-forward.

Frames are those of https://www.chromium.org/spdy/spdy-protocol/spdy-protocol-draft3-1/. There are no windows:
the library of kubectl neither counts nor sends them.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

_VERSION: Final = 0x8003
_SYN_STREAM, _SYN_REPLY, _RST_STREAM, _PING = 1, 2, 3, 6
_FIN: Final = 1

_WORDS: Final = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges "
    "age allow authorization cache-control connection content-base content-encoding content-language "
    "content-length content-location content-md5 content-range content-type date etag expect expires from "
    "host if-match if-modified-since if-none-match if-range if-unmodified-since last-modified location "
    "max-forwards pragma proxy-authenticate proxy-authorization range referer retry-after server te trailer "
    "transfer-encoding upgrade user-agent vary via warning www-authenticate method get status 200_OK version "
    "HTTP/1.1 url public set-cookie keep-alive origin"
)
_REST: Final = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized"
    "403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,"
    "text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)


def _text(text: str) -> bytes:
    return struct.pack(">I", len(text)) + text.encode("latin-1")


DICTIONARY: Final = b"".join(_text(word.replace("_", " ")) for word in _WORDS.split()) + _REST.encode()
"""The dictionary of the header compression, the same on both sides (2.6.10.1)."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The client has opened a stream."""

    stream: int
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Data:
    """The client has sent data on a stream; `is_last` is the FIN flag."""

    stream: int
    data: bytes
    is_last: bool


class Spdy:
    """One connection. It passes the bytes to send to `write`."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._held = bytearray()
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._deflate = zlib.compressobj(zdict=DICTIONARY)

    def feed(self, data: bytes) -> Iterator[Opened | Data]:
        """Parse bytes from the client. Returns the opened streams and the data. Answers pings by itself."""
        self._held += data
        while len(self._held) >= 8:
            first, rest = struct.unpack_from(">II", self._held)
            flags, size = rest >> 24, rest & 0xFFFFFF
            if len(self._held) < 8 + size:
                return
            payload = bytes(self._held[8 : 8 + size])
            del self._held[: 8 + size]
            is_last = bool(flags & _FIN)
            if first >> 16 != _VERSION:
                yield Data(first, payload, is_last)
                continue
            match first & 0xFFFF:
                case 1:
                    stream = int.from_bytes(payload[:4], "big")
                    yield Opened(stream, self._headers(payload[10:]))
                    if is_last:
                        yield Data(stream, b"", is_last=True)
                case 3:
                    yield Data(int.from_bytes(payload[:4], "big"), b"", is_last=True)
                case 6:
                    self._control(_PING, payload)

    def accept(self, stream: int) -> None:
        """Send the SYN_REPLY for a stream: the client waits for it."""
        block = self._deflate.compress(struct.pack(">I", 0)) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        self._control(_SYN_REPLY, struct.pack(">I", stream) + block)

    def send(self, stream: int, data: bytes, *, is_last: bool = False) -> None:
        self._write(struct.pack(">II", stream, is_last * _FIN << 24 | len(data)) + data)

    def _control(self, kind: int, payload: bytes) -> None:
        self._write(struct.pack(">HHI", _VERSION, kind, len(payload)) + payload)

    def _headers(self, block: bytes) -> dict[str, str]:
        plain = self._inflate.decompress(block)
        [count] = struct.unpack_from(">I", plain)
        texts, at = [], 4
        for _ in range(2 * count):
            [size] = struct.unpack_from(">I", plain, at)
            texts.append(plain[at + 4 : at + 4 + size].decode("latin-1"))
            at += 4 + size
        return dict(zip(texts[::2], texts[1::2], strict=True))
