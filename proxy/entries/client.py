"""The connection of an entry's client before it is relayed. The entry reads the client's request, answers it,
and passes the connection to a relay.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Final, cast

from proxy.entries import tls_transport
from proxy.entries.client_certificates import identities_of

LINGER_S: Final = 1.0
LINGER_BYTES: Final = 1 << 20
"""How many seconds, and how many bytes, a refused client may still send before the connection is cut. If we
closed it at once with unread bytes, the kernel would reset the connection, and the client could lose the
answer (RFC 9112 9.6).
"""


class SpeakingClient(asyncio.Protocol):
    """Reads from the client one piece at a time; the rest waits in the kernel."""

    def __init__(self, on_lost: Callable[[SpeakingClient], None]) -> None:
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._pieces: list[bytes] = []
        self._waiter: asyncio.Future[None] | None = None
        """The future of an entry that waits for bytes, or for the end of the connection."""
        self._had_eof = False
        self._is_lost = False
        self._lingering: asyncio.TimerHandle | None = None
        self._discarded = 0

    # ------------------------------------------------------------------------------- called by the entry

    async def connect(self, sock: socket.socket, tls: ssl.SSLContext | None = None) -> frozenset[str]:
        """Take ownership of `sock`, which is non-blocking. With `tls`, do the handshake, and return the
        identities in the client's certificate.

        Raises OSError if the client has disconnected, ssl.SSLError if the handshake fails, and NotTls if the
        client does not speak TLS. Such a client can be answered in plain text.
        """
        try:
            if tls is not None:
                transport = await tls_transport.accept(sock, tls, self)
                self.connection_made(transport)
                return identities_of(transport.get_extra_info("ssl_object").getpeercert())
            await asyncio.get_running_loop().connect_accepted_socket(lambda: self, sock)
        except tls_transport.NotTls as exc:
            exc.transport.set_protocol(self)
            self.connection_made(exc.transport)
            raise
        except BaseException as exc:
            if tls is None:
                sock.close()
            self.connection_lost(exc if isinstance(exc, Exception) else None)
            raise
        return frozenset()

    def check(self) -> asyncio.Transport:
        """The transport. Raises ConnectionResetError if the client has gone."""
        if self._transport is None or self._is_lost or self._transport.is_closing():
            raise ConnectionResetError("the client has gone")
        return self._transport

    async def more(self) -> bytes:
        """Wait for the next bytes of the client. Raises ConnectionResetError if the client has gone, and
        EOFError if it has ended its direction.
        """
        if not self._pieces and not self._had_eof:
            self._waiter = asyncio.get_running_loop().create_future()
            self.check().resume_reading()
            await self._waiter
        if not self._pieces:
            self.check()
            raise EOFError
        return self._pieces.pop(0)

    def send(self, data: bytes) -> None:
        """Send an answer, unless the client has gone."""
        if self._transport is not None and not self._is_lost and not self._transport.is_closing():
            self._transport.write(data)

    def hand_over(self, relay: asyncio.BufferedProtocol) -> None:
        """Make `relay` the protocol of the connection. Raises ConnectionResetError if the client has gone."""
        transport = self.check()
        self._on_lost(self)
        transport.set_protocol(relay)
        relay.connection_made(transport)
        if self._had_eof:
            relay.eof_received()
        elif not transport.is_closing():
            transport.resume_reading()

    def close(self) -> None:
        """Close when the client has closed its side, or after a deadline. Bytes that it still sends are
        dropped.
        """
        if self._transport is None or self._lingering or self._is_lost or self._transport.is_closing():
            return
        if self._had_eof:
            self._transport.close()
            return
        self._lingering = asyncio.get_running_loop().call_later(LINGER_S, self._transport.abort)
        self._transport.write_eof()
        self._transport.resume_reading()

    def abort(self) -> None:
        """Close now."""
        if self._transport is not None:
            self._transport.abort()

    # ------------------------------------------------------------------------------------------- for asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        if self._lingering:
            self._discarded += len(data)
            if self._discarded > LINGER_BYTES:
                self.abort()
            return
        self._pieces.append(data)
        if self._transport is not None:
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        """Returns True, so that asyncio keeps the other direction open."""
        self._had_eof = True
        self._wake()
        if self._lingering and self._transport is not None:
            self._transport.close()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._is_lost = self._had_eof = True
        self._wake()
        if self._lingering:
            self._lingering.cancel()
        self._on_lost(self)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
