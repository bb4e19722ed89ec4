"""TLS over a connected socket, from the side of a probe.

`ssl.SSLObject` between two memory BIOs (https://docs.python.org/3/library/ssl.html#memory-bio-support), not
`asyncio.open_connection(ssl=...)`: an asyncio TLS transport outlives the cancelled task that made it and lingers for its
closing handshake, differently in asyncio and uvloop. Here the socket is all there is, and closing it is synchronous.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

from proxy.health.result import Failure, Result

T = TypeVar("T")

CHUNK: Final = 16384
MAX_RECEIVED: Final = 256 * 1024
"""Bytes taken from one server: a chain of certificates, a header, 64 KiB of body, and room. It bounds the memory and, as
`sock_recv` does not yield while bytes are there, the time that a server can keep the loop busy."""


class TlsStream:
    """A TLS connection on a socket that stays the caller's: to close it at any moment ends everything. So does every deadline."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, server_name: str) -> None:
        """Raises ValueError if `server_name` cannot be a host name (IDNA)."""
        self._sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._received = 0
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)
        sock.setblocking(False)

    async def handshake(self) -> None:
        """Agree on keys and verify the peer as the context says.

        Raises ssl.SSLError (ssl.SSLCertVerificationError for the certificate), ssl.SSLEOFError or OSError for a lost peer.
        """
        await self._drive(self._tls.do_handshake)

    async def send(self, data: bytes) -> None:
        """Send all of it. That a peer takes no more is for `receive` to find."""
        self._tls.write(data)
        await self._flush()

    async def receive(self) -> bytes:
        """Up to 16 KiB, `b""` at the end (also one without close_notify: HTTP frames its messages itself).

        Raises ssl.SSLError, OSError.
        """
        try:
            return await self._drive(lambda: self._tls.read(CHUNK))
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return b""

    def certificate_expiry(self) -> float | None:
        """The end of the peer certificate's validity, Unix time; None unless a handshake verified it."""
        certificate = self._tls.getpeercert()
        return float(ssl.cert_time_to_seconds(str(certificate["notAfter"]))) if certificate else None

    def certificate(self) -> bytes | None:
        """The peer's certificate in DER, verified or not."""
        return self._tls.getpeercert(binary_form=True)

    async def _drive(self, step: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                await self._flush()  # the alert: it tells the server's log why we hang up
                raise
            else:
                await self._flush()
                return result
            await self._flush()
            data = await loop.sock_recv(self._sock, CHUNK)
            self._received += len(data)
            if self._received > MAX_RECEIVED:
                raise Failure(Result.HTTP_FAILED, f"the server sent {MAX_RECEIVED >> 10} KiB that are no answer")
            if data:
                self._incoming.write(data)
            else:
                self._incoming.write_eof()

    async def _flush(self) -> None:
        if data := self._outgoing.read():
            with suppress(
                BrokenPipeError, ConnectionResetError
            ):  # what the peer said before it left (an alert) is still to be read
                await asyncio.get_running_loop().sock_sendall(self._sock, data)
