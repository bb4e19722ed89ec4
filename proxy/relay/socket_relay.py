"""One client socket paired with one channel, until both directions have ended.

To the cluster: the socket's transport reads into a buffer of the channel (`get_buffer`), and the channel
sends it. To the client: the relay writes the channel's bytes to the socket's transport as they are.

Backpressure: a side that is slow pauses the other. The high-water mark of the socket's transport is zero, so
the channel is paused as soon as the client does not read what it is sent. A channel that is full pauses
reading from the socket. Each direction ends with its own end of file. The relay ends when both directions
have.

Nothing here logs, formats or looks up a label, because it runs for each packet. `on_end` gets the relay once,
when both legs are closed.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, cast

from proxy.errors import ProxyError
from proxy.errors.reasons import Reason
from proxy.metrics import Traffic
from proxy.relay.budget import MemoryBudget
from proxy.relay.interfaces import Channel, Pieces

LINGER_ZERO: Final = struct.pack("ii", 1, 0)
"""SO_LINGER on, 0 s: close() sends RST.

A client whose link broke must not believe that the API server has closed the connection in order.
"""

_TCP_CLOSE: Final = 7  # enum in linux/tcp_states.h; tcpi_state is the first byte of TCP_INFO


class SocketRelay(asyncio.BufferedProtocol):
    """A `proxy.relay.interfaces.Relay`: the protocol of a client's socket, and the user of its channel.

    `repr()` shows which side is paused.
    """

    __slots__ = (
        "_budget",
        "_channel",
        "_channel_open",
        "_charged",
        "_client_eof",
        "_client_open",
        "_cluster_eof",
        "_early",
        "_has_ended",
        "_on_end",
        "_start",
        "_transport",
        "first_byte_at",
        "from_cluster",
        "is_client_paused",
        "is_cluster_paused",
        "reason",
        "to_cluster",
        "traffic",
    )

    def __init__(
        self,
        channel: Channel,
        traffic: Traffic,
        budget: MemoryBudget,
        on_end: Callable[[SocketRelay], None],
        start: Callable[[SocketRelay], Awaitable[object]],
        *,
        early: bytes = b"",
    ) -> None:
        """`start` makes the relay the protocol of the client's socket. Raises OSError if the client has gone.

        `early` is what the entry has read from the client already: the channel gets it first.
        """
        self._channel = channel
        self._budget = budget
        self._on_end = on_end
        self._start = start
        self._transport: asyncio.Transport | None = None
        self._client_open = False
        self._channel_open = True
        self._client_eof = False
        self._cluster_eof = False
        self._has_ended = False
        self._charged = 0
        self._early = early
        self.traffic = traffic
        self.to_cluster = 0
        self.from_cluster = 0
        self.first_byte_at: float | None = None
        self.is_client_paused = False
        """The client's socket is not read, because the channel is full."""
        self.is_cluster_paused = False
        """The channel is not read, because the client does not read what it is sent."""
        self.reason: Reason | None = None

    def __repr__(self) -> str:
        client = f"client eof={self._client_eof} paused={self.is_client_paused}"
        cluster = f"cluster eof={self._cluster_eof} paused={self.is_cluster_paused}"
        return f"<Relay to={self.to_cluster} from={self.from_cluster} {client} {cluster}>"

    @property
    def has_started(self) -> bool:
        """See `proxy.relay.interfaces.Relay`: whether it owns the client's socket."""
        return self._transport is not None

    @property
    def is_client_gone(self) -> bool:
        """Whether the client has reset a socket that is paused.

        The transport notices a reset only when it reads or writes.
        """
        if (
            not self._client_open
            or self._transport is None
            or not (self.is_client_paused or self.is_cluster_paused)
        ):
            return False
        sock = self._transport.get_extra_info("socket")
        if sock is None or sock.family == socket.AF_UNIX:
            return False
        state: bytes = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
        return state[0] == _TCP_CLOSE

    async def start(self) -> None:
        try:
            await self._start(self)
        except BaseException as exc:
            self._channel.abort()
            if self.has_started:  # if cancelled, uvloop closes the transport without `connection_lost`
                self.connection_lost(exc if isinstance(exc, Exception) else None)
            raise

    # ------------------------------------------------------------------------------------ the client's socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The relay owns the client's socket now: start both directions."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=0)
        self._client_open = True
        self._channel.attach(self)
        if self._early:
            self._send_early()

    def _send_early(self) -> None:
        early, self._early = memoryview(self._early), b""
        while early:
            buffer = self._channel.get_buffer(len(early))
            piece = early[: len(buffer)]
            buffer[: len(piece)] = piece
            self.buffer_updated(len(piece))
            early = early[len(piece) :]

    def get_buffer(self, sizehint: int) -> memoryview:
        """A buffer of the channel, never empty.

        uvloop closes the connection if the buffer is empty, and calls this once more after `pause_reading`.
        """
        return self._channel.get_buffer(sizehint)

    def buffer_updated(self, nbytes: int) -> None:
        """`nbytes` from the client are in the buffer: the channel sends them."""
        self.to_cluster += nbytes
        self.traffic.to_cluster += nbytes
        self._channel.buffer_updated(nbytes)

    def eof_received(self) -> bool:
        """The client sends no more. Returns True, so that asyncio keeps the other direction open."""
        self._client_eof = True
        self.reason = self.reason or Reason.CLIENT_CLOSED
        if self._channel_open:
            self._channel.write_eof()
        self._finish_if_done()
        return True

    def pause_writing(self) -> None:
        """The client does not read: pause the channel."""
        self.is_cluster_paused = True
        if not self._channel.counts_unsent:
            self._charge()
        self._channel.pause_reading()

    def resume_writing(self) -> None:
        """Everything is written to the client's socket: resume the channel."""
        self.is_cluster_paused = False
        self._uncharge()
        self._channel.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client's socket is closed. Idempotent."""
        if not self._client_open:
            return
        self._client_open = False
        self._uncharge()
        self.reason = self.reason or (Reason.CLIENT_RESET if exc else Reason.CLIENT_CLOSED)
        if self._client_eof and self._cluster_eof:
            self._channel.close()
        else:
            self._drop_channel()
        self._end_if_closed()

    # -------------------------------------------------------------------------------------------- the channel

    def channel_data(self, pieces: Pieces, nbytes: int) -> None:
        """Write bytes from the cluster to the client."""
        if not self.from_cluster:
            self.first_byte_at = asyncio.get_running_loop().time()
        self.from_cluster += nbytes
        self.traffic.from_cluster += nbytes
        if self._client_open and self._transport is not None:
            self._transport.writelines(pieces)

    def channel_eof(self) -> None:
        """The cluster sends no more."""
        self._cluster_eof = True
        self.reason = self.reason or Reason.CLUSTER_CLOSED
        if self._client_open and self._transport is not None and not self._transport.is_closing():
            self._transport.write_eof()
        self._finish_if_done()

    def channel_full(self) -> None:
        """Stop reading from the client."""
        self.is_client_paused = True
        if self._client_open and self._transport is not None:
            self._transport.pause_reading()

    def channel_writable(self) -> None:
        """Read from the client again."""
        self.is_client_paused = False
        if (
            self._client_open
            and self._transport is not None
            and not self._client_eof
            and not self._transport.is_closing()
        ):
            self._transport.resume_reading()

    def channel_lost(self, error: ProxyError | None) -> None:
        """The channel is closed. Reset the client, unless one of the two directions has ended in order."""
        if not self._channel_open:
            return
        self._channel_open = False
        if error is not None:
            self.reason = error.reason
        # A CLOSE without EOF is in order if the client has sent its EOF: asyncssh's server may omit its own.
        if error is None and (self._cluster_eof or self._client_eof):
            if self._client_open and self._transport is not None:
                if self.is_cluster_paused:  # these bytes counted with the channel's window until now
                    self._charge()
                self._transport.close()
        else:
            self.reason = self.reason or Reason.CLUSTER_RESET
            self._reset_client()
        self._end_if_closed()

    # ------------------------------------------------------------------------------------------------ the end

    def half_close(self, reason: Reason) -> None:
        """Send the end of file that the client has not sent; what the cluster still sends is delivered."""
        if not self._client_open or self._client_eof or self._transport is None:
            return
        self.reason = self.reason or reason
        self._transport.pause_reading()
        self._client_eof = True
        if self._channel_open:
            self._channel.write_eof()
        self._finish_if_done()

    def abort(self, reason: Reason) -> None:
        """End both legs at once."""
        self.reason = self.reason or reason
        self._drop_channel()
        self._reset_client()
        self._end_if_closed()

    def _drop_channel(self) -> None:
        """Abort the channel, and do not wait until sshd has closed it.

        While the API server does not read, sshd answers our CLOSE late or never.
        """
        self._channel_open = False
        self._channel.abort()

    def _finish_if_done(self) -> None:
        if self._client_eof and self._cluster_eof and self._client_open and self._transport is not None:
            self._transport.close()

    def _reset_client(self) -> None:
        if self._client_open and self._transport is not None:
            sock = self._transport.get_extra_info("socket")
            if sock is not None and sock.family != socket.AF_UNIX:
                with suppress(OSError, ValueError):  # closed already
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
            self._transport.abort()

    def _charge(self) -> None:
        self._uncharge()
        if self._transport is not None:
            self._charged = self._transport.get_write_buffer_size()
            self._budget.charge(self._charged)

    def _uncharge(self) -> None:
        self._budget.release(self._charged)
        self._charged = 0

    def _end_if_closed(self) -> None:
        if not self._client_open and not self._channel_open and not self._has_ended:
            self._has_ended = True
            self._on_end(self)
