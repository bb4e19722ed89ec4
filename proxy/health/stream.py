"""TLS over a connected socket, for a probe.

It uses an `ssl.SSLObject` between two memory BIOs
(https://docs.python.org/3/library/ssl.html#memory-bio-support), and not `asyncio.open_connection(ssl=...)`:
an asyncio TLS transport outlives the cancelled task that made it, and waits for its closing handshake, in
asyncio otherwise than in uvloop. Here there is only the socket, and closing it takes effect at once.
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
"""Bytes read from one server at most: a chain of certificates, a header, 64 KiB of body, and some more.

It bounds the memory. It also bounds how long a server can keep the loop busy, because `sock_recv` does not
yield while there are bytes to read.
"""


class _Shown(Protocol):
    def public_bytes(self, encoding: int, /) -> bytes: ...


class _Inner(Protocol):
    """The object that `ssl.SSLObject` wraps."""

    def get_unverified_chain(self) -> Sequence[_Shown] | None: ...


class TlsStream:
    """A TLS connection on a socket that the caller owns. Closing the socket ends it, at any moment.

    Deadlines are the caller's, too.
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
        # As bytes, because Python's IDNA codec, which text goes through, refuses names that Go sends.
        name = server_name and server_name.encode("ascii")
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        sock.setblocking(False)

    async def handshake(self) -> None:
        """Agree on keys and verify the peer. Before that, it gets neither our certificate nor a request.

        Raises what `verify` does, ssl.SSLError, ssl.SSLEOFError or OSError for a lost peer.
        """
        await self._drive(self._shake)
        if not self._is_verified:
            raise ssl.SSLError("the server shows no certificate")

    def _shake(self) -> None:
        try:
            self._tls.do_handshake()
        finally:
            # What this step has written, our certificate as well, is not sent yet: `_flush` does that.
            if not self._is_verified and (chain := self._chain()):
                self._verify(chain)
                self._is_verified = True

    def _chain(self) -> list[bytes]:
        """The peer's certificates, as soon as they have arrived.

        Python 3.13 has a public method for it, but only for handshakes that succeeded.
        """
        inner = cast("_Inner", getattr(self._tls, "_sslobj"))  # noqa: B009 - not known to type checkers
        return [
            certificate.public_bytes(_ssl.ENCODING_DER) for certificate in inner.get_unverified_chain() or ()
        ]

    async def send(self, data: bytes) -> None:
        """Send all of it. If the peer has closed the connection, `receive` reports it."""
        self._tls.write(data)
        await self._flush()

    async def receive(self) -> bytes:
        """Up to 16 KiB; `b""` at the end, also without close_notify: HTTP marks the end of its messages.

        Raises ssl.SSLError, OSError.
        """
        try:
            return await self._drive(lambda: self._tls.read(CHUNK))
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return b""

    async def _drive(self, step: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                await self._flush()  # the alert, so that the server can log why we hang up
                raise
            else:
                await self._flush()
                return result
            await self._flush()
            data = await loop.sock_recv(self._sock, CHUNK)
            self._received += len(data)
            if self._received > MAX_RECEIVED:
                raise Failure(
                    Result.HTTP_FAILED, f"the server sent {MAX_RECEIVED >> 10} KiB that are no answer"
                )
            if data:
                self._incoming.write(data)
            else:
                self._incoming.write_eof()

    async def _flush(self) -> None:
        if data := self._outgoing.read():
            # What the peer sent before (an alert) is still to be read.
            with suppress(BrokenPipeError, ConnectionResetError):
                await asyncio.get_running_loop().sock_sendall(self._sock, data)
