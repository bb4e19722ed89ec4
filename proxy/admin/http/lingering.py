"""A transport whose `close` does not lose the answer while the client is still sending.

If a connection is closed while bytes from the client are unread, the kernel resets it. The client then loses
the answer, if it has not read it yet. So `close` goes on reading and discards the bytes, for one second at
most (RFC 9112 9.6).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

LINGER_S: Final = 1.0


class Lingering(asyncio.Transport):
    """Wraps the real transport, as far as uvicorn's protocol uses it."""

    def __init__(self, transport: asyncio.Transport, is_read: Callable[[], bool]) -> None:
        """`is_read`: whether the client's request was read to its end, so that `close` need not wait."""
        super().__init__()
        self._transport = transport
        self._is_read = is_read
        self._end: asyncio.TimerHandle | None = None

    @property
    def is_lingering(self) -> bool:
        """Whether `close` was called and waits for the client. Bytes that arrive now must be discarded."""
        return self._end is not None

    def close(self) -> None:
        """Send what was written. Close when the client has ended its stream, or after a second."""
        if self.is_closing():
            return
        if self._is_read():
            self._transport.close()
            return
        self._end = asyncio.get_running_loop().call_later(LINGER_S, self._transport.abort)
        self._transport.resume_reading()
        if self._transport.can_write_eof():  # not under TLS
            self._transport.write_eof()

    def forget(self) -> None:
        """The connection is lost: stop the timer."""
        if self._end:
            self._end.cancel()

    def is_closing(self) -> bool:
        """Whether `close` was called."""
        return self.is_lingering or self._transport.is_closing()

    def abort(self) -> None:
        """Close now."""
        self._transport.abort()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send `data`; nothing after `close`, where uvloop raises RuntimeError."""
        if not self.is_closing():
            self._transport.write(data)

    def pause_reading(self) -> None:
        """Stop reading."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        self._transport.resume_reading()

    def get_extra_info(self, name: str, default: object = None) -> object:
        """What the real transport says."""
        return self._transport.get_extra_info(name, default)
