"""TLS over a connected socket, for a probe.

It uses an `ssl.SSLObject` between two memory BIOs
(https://docs.python.org/3/library/ssl.html#memory-bio-support), and not `asyncio.open_connection(ssl=...)`:
an asyncio TLS transport stays open after the task that made it was cancelled, and waits for its closing
handshake; asyncio and uvloop do that differently. Here only the socket is open, and closing it ends
everything at once.
"""

from __future__ import annotations

import _ssl
import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Protocol, TypeVar, cast

from proxy.health.result import Failure, Result

T = TypeVar("T")

CHUNK: Final = 16384
MAX_RECEIVED: Final = 256 * 1024
"""The most bytes that a probe reads from a server: enough for certificates, a header and 64 KiB of body.

It limits memory, and how long a server can keep the event loop busy: `sock_recv` does not yield while there
are bytes to read.
"""


class _Shown(Protocol):
    def public_bytes(self, encoding: int, /) -> bytes: ...


class _Inner(Protocol):
    """The object that `ssl.SSLObject` wraps."""

    def get_unverified_chain(self) -> Sequence[_Shown] | None: ...


class TlsStream:
    """A TLS connection on a socket that the caller owns. The caller may close the socket at any moment, which
    ends the connection, and sets the deadlines.
    """

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        server_name: str | None,
        verify: Callable[[Sequence[bytes]], None],
    ) -> None:
        """`server_name` is sent to the peer (SNI).

        `verify` gets the peer's certificates (DER), and raises if it does not accept them.

        Raises ValueError if `server_name` cannot be sent.
        """
        self._sock = sock
        self._verify = verify
        self._is_verified = False
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._received = 0
        self.most: int | None = MAX_RECEIVED
        """The most bytes that are read. None is any number: other tasks have their turn in between."""
        # As bytes: Python encodes text with its IDNA codec, which refuses some names that Go sends.
        name = server_name and server_name.encode("ascii")
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        sock.setblocking(False)

    async def handshake(self) -> None:
        """Agree on keys and verify the peer. Until it is verified, the peer gets neither our certificate nor
        a request.

        Raises what `verify` raises, and ssl.SSLError, ssl.SSLEOFError or OSError.
        """
        await self._run(self._handshake_step)
        if not self._is_verified:
            raise ssl.SSLError("the server shows no certificate")

    def _handshake_step(self) -> None:
        try:
            self._tls.do_handshake()
        finally:
            # What this step has written (our certificate, too) is still in memory: only `_flush` sends it.
            if not self._is_verified and (chain := self._chain()):
                self._verify(chain)
                self._is_verified = True

    def _chain(self) -> list[bytes]:
        """The peer's certificates, as soon as they have arrived.

        The public method of Python 3.13 works only after a successful handshake.
        """
        inner = cast("_Inner", getattr(self._tls, "_sslobj"))  # noqa: B009 - not known to type checkers
        return [
            certificate.public_bytes(_ssl.ENCODING_DER) for certificate in inner.get_unverified_chain() or ()
        ]

    async def send(self, data: bytes) -> None:
        """Send all of `data`. If the peer has closed the connection, `receive` reports it."""
        self._tls.write(data)
        await self._flush()

    async def receive(self) -> bytes:
        """Up to 16 KiB; `b""` at the end of the stream. Raises ssl.SSLError, OSError.

        An end without close_notify is accepted, because HTTP itself marks the end of its messages.
        """
        try:
            return await self._run(lambda: self._tls.read(CHUNK))
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return b""

    async def _run(self, step: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                await self._flush()  # sends the TLS alert, so that the server can log why we close
                raise
            else:
                await self._flush()
                return result
            await self._flush()
            data = await loop.sock_recv(self._sock, CHUNK)
            self._received += len(data)
            if self.most is None:
                await asyncio.sleep(0)
            elif self._received > self.most:
                raise Failure(Result.HTTP_FAILED, f"the server sent {self.most >> 10} KiB that are no answer")
            if data:
                self._incoming.write(data)
            else:
                self._incoming.write_eof()

    async def _flush(self) -> None:
        if data := self._outgoing.read():
            # If the peer has closed, what it sent before (an alert) can still be read.
            with suppress(BrokenPipeError, ConnectionResetError):
                await asyncio.get_running_loop().sock_sendall(self._sock, data)
