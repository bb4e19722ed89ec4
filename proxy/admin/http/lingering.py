"""A transport that does not lose the answer when the client is still sending.

A socket that is closed with bytes unread is reset by the kernel, and the client loses what it has not read
yet: the answer that says why. So what the client still sends is read and thrown away, for a second at most
(RFC 9112 9.6).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

LINGER_S: Final = 1.0


class Lingering(asyncio.Transport):
    """As much of a transport as uvicorn's protocol uses, around the real one."""

    def __init__(self, transport: asyncio.Transport, is_read: Callable[[], bool]) -> None:
        """`is_read`: whether the client has nothing more to send, so that `close` may close."""
        super().__init__()
        self._transport = transport
        self._is_read = is_read
        self._end: asyncio.TimerHandle | None = None

    @property
    def is_lingering(self) -> bool:
        """Whether what comes is to be thrown away. The end of it closes the transport."""
        return self._end is not None

    def close(self) -> None:
        """Close once the client has sent all, or after a second. What was written is sent before."""
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
        """The connection is lost: nothing to wait for."""
        if self._end:
            self._end.cancel()

    def is_closing(self) -> bool:
        """Whether it is, or will be when the client has sent all."""
        return self.is_lingering or self._transport.is_closing()

    def abort(self) -> None:
        """Close now."""
        self._transport.abort()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send `data`. uvloop's own raises RuntimeError after a close."""
        if not self.is_closing():
            self._transport.write(data)

    def pause_reading(self) -> None:
        """Leave what the client sends with the kernel."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        self._transport.resume_reading()

    def get_extra_info(self, name: str, default: object = None) -> object:
        """What the real one knows."""
        return self._transport.get_extra_info(name, default)
