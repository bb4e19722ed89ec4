"""TLS over a connected socket, from the side of a probe.

`ssl.SSLObject` between two memory BIOs (https://docs.python.org/3/library/ssl.html#memory-bio-support), not
`asyncio.open_connection(ssl=...)`: an asyncio TLS transport outlives the cancelled task that made it and
lingers for its closing handshake, differently in asyncio and uvloop. Here the socket is all there is, and
closing it is synchronous.
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
"""Bytes taken from one server: a chain of certificates, a header, 64 KiB of body, and room.

It bounds the memory and, as `sock_recv` does not yield while bytes are there, the time that a server can keep
the loop busy.
"""


class _Shown(Protocol):
    def public_bytes(self, encoding: int, /) -> bytes: ...


class _Inner(Protocol):
    """What `ssl.SSLObject` wraps."""

    def get_unverified_chain(self) -> Sequence[_Shown] | None: ...


class TlsStream:
    """A TLS connection on a socket that stays the caller's: to close it at any moment ends everything.

    So does every deadline.
    """

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        server_name: str | None,
        verify: Callable[[Sequence[bytes]], None],
    ) -> None:
        """`server_name` is what the peer is told (SNI).

        `verify` gets its certificates (DER) and raises if they are not good.

        Raises ValueError if `server_name` cannot be sent.
        """
        self._sock = sock
        self._verify = verify
        self._is_verified = False
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._received = 0
        # As bytes: text goes through Python's IDNA codec, which refuses names that Go sends.
        name = server_name and server_name.encode("ascii")
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        sock.setblocking(False)

    async def handshake(self) -> None:
        """Agree on keys and verify the peer, before it is shown anything of ours: no certificate, no request.

        Raises what `verify` does, ssl.SSLError, ssl.SSLEOFError or OSError for a lost peer.
        """
        await self._drive(self._shake)
        if not self._is_verified:
            raise ssl.SSLError("the server shows no certificate")

    def _shake(self) -> None:
        try:
            self._tls.do_handshake()
        finally:
            # Whatever this step has written, our own certificate too, is still here: it leaves in `_flush`.
            if not self._is_verified and (chain := self._chain()):
                self._verify(chain)
                self._is_verified = True

    def _chain(self) -> list[bytes]:
        """The peer's certificates, as soon as they have come.

        Public since Python 3.13, but only for what has ended well.
        """
        inner = cast("_Inner", getattr(self._tls, "_sslobj"))  # noqa: B009 - not known to type checkers
        return [
            certificate.public_bytes(_ssl.ENCODING_DER) for certificate in inner.get_unverified_chain() or ()
        ]

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
                raise Failure(
                    Result.HTTP_FAILED, f"the server sent {MAX_RECEIVED >> 10} KiB that are no answer"
                )
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
