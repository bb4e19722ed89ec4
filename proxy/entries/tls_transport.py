"""TLS between a client and an entry, as a transport on top of the transport of its socket.

asyncio and uvloop have such a transport, but theirs ends both directions when one of them ends, and drops
what the other side still sends. A relay needs half-close: here each direction ends with its own close_notify
(RFC 8446 6.1). OpenSSL does all of TLS; this class moves bytes between OpenSSL, the socket and the protocol.

Backpressure comes from the socket's transport: written bytes are encrypted at once, and wait there. Bytes
that were received while the protocol is paused wait in OpenSSL's buffer, at most one read of the socket.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final, cast

Protocol = asyncio.Protocol | asyncio.BufferedProtocol
Data = bytes | bytearray | memoryview

HANDSHAKE: Final = 22
"""The first byte of every TLS connection: the type of its first record (RFC 8446 5.1)."""

_RECORD: Final = 16 << 10
_PIECE: Final = 64 << 10
"""Bytes that OpenSSL gets at a time. Its buffers never shrink, so larger pieces would keep more memory."""
_received: Final = memoryview(bytearray(_PIECE))
"""All connections receive into this buffer: OpenSSL copies the bytes before the next connection reads."""
_decrypted: Final = memoryview(bytearray(_RECORD))


class NotTls(Exception):
    """The client does not speak TLS. `transport` owns its socket, and is paused."""

    def __init__(self, transport: asyncio.Transport, first: int) -> None:
        """`first` is the client's first byte."""
        super().__init__("the client does not speak TLS")
        self.transport = transport
        self.first = first


async def accept(sock: socket.socket, context: ssl.SSLContext, protocol: Protocol) -> TlsTransport:
    """Do the handshake with the client of `sock`, which is non-blocking; reading is paused afterwards.

    Raises NotTls, ssl.SSLError, or another OSError if the client has gone. The socket is then closed, except
    after NotTls.
    """
    transport = TlsTransport(context, protocol)
    try:
        await asyncio.get_running_loop().connect_accepted_socket(lambda: transport, sock)
        await transport.handshake
    # NotTls owns the socket; otherwise the socket is closed when the alert is sent.
    except (NotTls, ssl.SSLError):
        raise
    except BaseException:
        transport.handshake.cancel()  # after a cancellation nobody awaits it, and asyncio would log its error
        transport.abort()
        sock.close()
        raise
    return transport


class TlsTransport(asyncio.Transport, asyncio.BufferedProtocol):
    """The protocol of a client's socket, and the transport of a protocol on top of it."""

    def __init__(self, context: ssl.SSLContext, protocol: Protocol) -> None:
        super().__init__()
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._loop = asyncio.get_running_loop()
        self.handshake: asyncio.Future[None] = self._loop.create_future()
        self._below: asyncio.Transport | None = None
        self._protocol = protocol
        self._is_paused = True
        self._is_drained = False
        """Whether all bytes that OpenSSL has received were read from it."""
        self._has_peer_ended = False
        self._has_passed_eof = False
        self._wants_eof = False
        """Whether the protocol has ended its direction."""
        self._has_sent_close_notify = False
        """Whether our close_notify is sent."""
        self._error: Exception | None = None

    def __repr__(self) -> str:
        return f"<TlsTransport {self._tls.version()} paused={self._is_paused}>"

    # -------------------------------------------------------------------------------- the socket's transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._below = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        return _received

    def buffer_updated(self, nbytes: int) -> None:
        if not self.handshake.done():
            if not self._is_drained and _received[0] != HANDSHAKE:
                self._socket.pause_reading()
                self.handshake.set_exception(NotTls(self._socket, _received[0]))
                return
            self._incoming.write(_received[:nbytes])
            self._shake_hands()
        elif self._has_peer_ended:  # a client may send nothing after its close_notify
            self._fail(ConnectionResetError("the client sends more after its end"))
        elif not self.is_closing():
            self._incoming.write(_received[:nbytes])
            self._is_drained = False
            self._read()

    def eof_received(self) -> bool:
        """Returns True, so that asyncio keeps the other direction open."""
        # Without a close_notify, somebody else may have cut the connection (RFC 8446 6.1).
        if not self._has_peer_ended:
            self._fail(ConnectionResetError("the client has gone without a close_notify"))
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.handshake.done():
            self.handshake.set_exception(exc or ConnectionResetError("the client has gone"))
        self._protocol.connection_lost(exc or self._error)

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()

    # -------------------------------------------------------------------------------------------------- TLS

    @property
    def _socket(self) -> asyncio.Transport:
        assert self._below is not None  # noqa: S101 - asyncio calls `connection_made` first
        return self._below

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._is_drained = True
            self._flush()
        except ssl.SSLError as exc:
            self._flush()  # the alert for the client
            self._socket.close()
            self.handshake.set_exception(exc)
        else:
            self._is_drained = False  # the client may have sent more, with the last message of its handshake
            self._flush()
            self._socket.pause_reading()
            self.handshake.set_result(None)

    def _read(self) -> None:
        """Pass received bytes to the protocol until it pauses."""
        try:
            while not (self._is_paused or self._is_drained or self._has_peer_ended or self.is_closing()):
                if isinstance(self._protocol, asyncio.BufferedProtocol):
                    self._fill(self._protocol)
                elif count := self._decrypt(_decrypted):
                    self._protocol.data_received(bytes(_decrypted[:count]))
        except ssl.SSLError as exc:
            self._flush()
            self._fail(exc)
            return
        if self.is_closing():
            return
        self._flush()  # the answer to a KeyUpdate (RFC 8446 4.6.3)
        if self._wants_eof:
            self._notify_if_drained()
        if self._has_peer_ended and not self._is_paused and not self._has_passed_eof:
            self._has_passed_eof = True
            if not self._protocol.eof_received():
                self.close()

    def _fill(self, protocol: asyncio.BufferedProtocol) -> None:
        """Fill a buffer of the protocol, with several TLS records if they have arrived."""
        room = memoryview(protocol.get_buffer(_RECORD))
        filled = 0
        while filled < len(room) and (count := self._decrypt(room[filled:])):
            filled += count
        if filled:
            protocol.buffer_updated(filled)

    def _decrypt(self, room: memoryview) -> int:
        """Decrypt bytes of one record into `room`. Returns how many, 0 if there are none."""
        try:
            count = cast("int", self._tls.read(len(room), room))  # typeshed says bytes, as without `room`
        except ssl.SSLWantReadError:
            self._is_drained = True
            return 0
        except ssl.SSLZeroReturnError:  # after our own close_notify
            count = 0
        self._has_peer_ended = not count
        return count

    def _notify_if_drained(self) -> None:
        """Send our close_notify, but not before all received bytes are read: `unwrap` would drop them."""
        if self._is_drained or self._has_peer_ended:
            self._notify()

    def _notify(self) -> None:
        """Send our close_notify, once."""
        if self._has_sent_close_notify:
            return
        self._wants_eof = self._has_sent_close_notify = True
        with suppress(ssl.SSLError):  # OpenSSL wants the client's close_notify, which comes later
            self._tls.unwrap()
        self._flush()

    def _flush(self) -> None:
        if (data := self._outgoing.read()) and not self._socket.is_closing():
            self._socket.write(data)

    def _fail(self, error: Exception) -> None:
        self._error = error
        self.abort()

    # ------------------------------------------------------------------------------------- for the protocol

    def writelines(self, list_of_data: Iterable[Data]) -> None:
        if self._wants_eof or self.is_closing():
            return
        try:
            for data in list_of_data:
                rest = memoryview(data)
                while rest:
                    rest = rest[self._tls.write(rest[:_PIECE]) :]
                    if self._outgoing.pending >= _PIECE:
                        self._flush()
        except ssl.SSLError as exc:
            self._fail(exc)
        else:
            self._flush()

    def write(self, data: Data) -> None:
        self.writelines((data,))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """End our direction; the client's stays open."""
        self._wants_eof = True
        self._notify_if_drained()

    def pause_reading(self) -> None:
        self._is_paused = True
        self._socket.pause_reading()

    def resume_reading(self) -> None:
        """Resume in the next turn of the loop, first with the bytes that OpenSSL has already received."""
        self._is_paused = False
        self._loop.call_soon(self._read_again)

    def _read_again(self) -> None:
        if self._is_paused or self.is_closing():
            return
        self._read()
        if not self.is_closing() and (self._has_peer_ended or not self._is_paused):
            # Also after the client's EOF, to notice when its connection is lost.
            self._socket.resume_reading()

    def close(self) -> None:
        """Close when everything is sent."""
        if not self.is_closing():
            self._notify()
            self._socket.close()

    def abort(self) -> None:
        if self._below is not None:
            self._below.abort()

    def is_closing(self) -> bool:
        return self._socket.is_closing()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = cast("Protocol", protocol)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._tls if name == "ssl_object" else self._socket.get_extra_info(name, default)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._socket.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._socket.get_write_buffer_size()
