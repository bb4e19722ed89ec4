"""One link's native data plane: it puts together asyncssh's connection, what goes out, what comes in, and the
channels.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import asyncssh

from proxy.errors import LinkError
from proxy.relay.budget import MemoryBudget
from proxy.runtime.endpoint import Endpoint
from proxy.ssh.data_plane import OnAnswer
from proxy.ssh.metered import POLL_S, carrier, is_behind
from proxy.ssh.native.flow import HIGH_WATER, Flow
from proxy.ssh.native.gathering import Gathering
from proxy.ssh.native.handover import Handover
from proxy.ssh.native.incoming import LARGEST_DATA, Incoming
from proxy.ssh.native.native_channel import NativeChannel
from proxy.ssh.native.outgoing import MOST_DEFERRED, Outgoing
from proxy.ssh.native.valve import Reason, Valve
from proxy.ssh.native.wire import messages
from proxy.ssh.native.wire.errors import ProtocolError
from proxy.ssh.native.wire.keys import Keys
from proxy.ssh.pace import BULK
from proxy.ssh.turns import Turns

NOT_SENT_LOW_WATER: Final = 512 << 10
"""Bytes that the kernel takes and has not sent yet.

A request cannot overtake them any more. So many keep a link of 10 Gbit/s busy.
"""


RESTING: Final = 1024
"""Channels that are closed before a number is used again.

A peer may send something for a channel, credit above all, before it hears that we have closed it. OpenSSH
ignores that. The next channel of that number would take it for its own.
"""

MOST_UNREAD: Final = 2 << 20
"""Bytes that may wait in the link's transport; with more, the link is not read.

Clients add none past 0.5 MiB, so the others are answers to the peer.
"""

MOST_WRITES: Final = 4096
"""Writes that may wait there. Each takes 300 bytes of uvloop's own memory, however short it is."""


class NativePlane:
    """A `proxy.ssh.data_plane.DataPlane`."""

    mode: Final = "native"

    def __init__(
        self,
        conn: asyncssh.SSHClientConnection,
        budget: MemoryBudget,
        turns: Turns,
        *,
        on_error: Callable[[ProtocolError], None],
        on_lost: Callable[[Exception | None], None],
        on_ended: Callable[[], None],
    ) -> None:
        """Take the connection over. Raises Unsupported, and then the connection is as it was.

        `on_error` is called when the peer breaks the protocol, before the connection ends; `on_lost` when the
        transport is gone; `on_ended` when a channel has ended.
        """
        self._loop = asyncio.get_running_loop()
        self._budget = budget
        self._on_error = on_error
        self._on_lost = on_lost
        self._on_ended = on_ended
        self._handover = Handover(conn, self)
        taken = self._handover.begin()
        self._transport = taken.transport
        self._socket = _tcp_socket(conn)
        # The socket is the jump host's then, and not ours.
        is_tunnelled = isinstance(taken.transport, asyncssh.SSHTCPChannel)
        self._gathering = Gathering(taken.transport, None if is_tunnelled else self._socket)
        self._charged = 0
        self._channels: dict[int, NativeChannel] = {}
        self._live: dict[NativeChannel, None] = {}
        self._free: list[int] = []
        self._closed: deque[int] = deque()
        self._writes = 0
        self._carrier = carrier(conn)
        self._polling: asyncio.TimerHandle | None = None
        self.error: LinkError | None = None
        """Why the connection has ended."""
        self._bulk_in = 0
        self._received_before = 0
        self._keeping: NativeChannel | None = None
        self._flow = Flow(turns)
        self._outgoing = Outgoing(
            taken.transport,
            taken.sending,
            on_written=self._sent,
            on_turn=self._turn_ends,
            on_overflow=self._overflow,
        )
        self._valve = Valve(taken.transport)
        self._incoming = Incoming(
            taken.receiving,
            self._valve,
            on_message=self._message,
            on_opened=self._pass_on,
            on_other=self._handover.to_asyncssh,
            on_error=self._fail,
            on_read=self._outgoing.schedule,
            on_lost=self._transport_lost,
            on_congestion=self._congestion,
        )
        # The kernel's own queue is the buffer; what it does not take is what congestion means here.
        taken.transport.set_write_buffer_limits(high=0)
        self._handover.attach(self._incoming)
        self._incoming.start(taken.received)

    def __len__(self) -> int:
        """Channels open or being opened."""
        return len(self._live)

    @property
    def round_trip(self) -> float:
        """Seconds that the way itself takes."""
        return self._flow.round_trip

    @round_trip.setter
    def round_trip(self, seconds: float) -> None:
        self._flow.round_trip = seconds

    @property
    def received(self) -> int:
        """Bytes that have come so far."""
        return self._incoming.received

    @property
    def bulk(self) -> int:
        """Bytes that have gone and come in full packets so far."""
        return self._bulk_in + self._outgoing.bulk

    # ------------------------------------------------------------------------------------------- channels

    def open(self, window: int, target: Endpoint, origin: Endpoint, on_answer: OnAnswer) -> NativeChannel:
        """Have a channel opened. `window`, its receive window, has been acquired of the budget."""
        channel = NativeChannel(self, self._outgoing, self._flow, self._budget, window, on_answer)
        if self.error is not None:
            channel.lost(self.error)
        else:
            self._outgoing.say(
                messages.open_direct_tcpip(channel.number, window, LARGEST_DATA, target, origin)
            )
        return channel

    def number(self, channel: NativeChannel) -> int:
        """A number for a new channel: one that has rested, or the next."""
        if self._free:
            number = self._free.pop()
        elif len(self._closed) > RESTING:
            number = self._closed.popleft()
        else:
            number = len(self._channels) + len(self._closed)
        self._channels[number] = channel
        self._live[channel] = None
        return number

    def release(self, number: int) -> None:
        """It was refused: there never was a channel of that number."""
        del self._channels[number]
        self._free.append(number)

    def closed(self, number: int) -> None:
        """Both sides have closed it. What the peer sent before it heard of our CLOSE may still arrive."""
        del self._channels[number]
        self._closed.append(number)

    def ended(self, channel: NativeChannel) -> None:
        """Nothing more will come of it."""
        del self._live[channel]
        self._on_ended()

    def lost(self, error: LinkError) -> None:
        """The connection has ended, and with it every channel."""
        self.error = error
        self._uncharge()
        for channel in list(self._live):
            channel.lost(error)

    async def close(self) -> None:
        """See `proxy.ssh.data_plane.DataPlane`. This one has no tasks."""

    def _message(self, kind: int, message: memoryview) -> bool:
        if kind == messages.DATA:
            number, data = messages.parse_data(message)
            channel = self._channel(kind, number)
            if channel is None:
                return False
            if len(data) < BULK:
                has_views = self._keeping is not None and self._pass_on()
                return channel.data(data) or has_views
            has_views = channel is not self._keeping and self._pass_on()
            self._keeping = channel
            self._bulk_in += len(data)
            channel.keep(data)
            return has_views
        has_views = self._pass_on()
        channel = self._channel(kind, messages.recipient(message))
        if channel is None:
            messages.check(kind, message)
        elif kind == messages.WINDOW_ADJUST:
            channel.adjusted(messages.parse_window_adjust(message))
        elif kind == messages.OPEN_CONFIRMATION:
            channel.confirmed(messages.parse_confirmation(message))
        elif kind == messages.OPEN_FAILURE:
            channel.refused(messages.parse_failure(message))
        elif kind == messages.EOF:
            messages.parse_bare(message)
            channel.eof_received()
        elif kind == messages.CLOSE:
            messages.parse_bare(message)
            channel.close_received()
        elif kind == messages.REQUEST:
            channel.request(wants_reply=messages.parse_request(message))
        else:
            raise messages.unfit(kind)
        return has_views

    def _pass_on(self) -> bool:
        """Hand on what one channel has got in a row, in one write."""
        if self._keeping is None:
            return False
        kept, self._keeping = self._keeping, None
        return kept.pass_on()

    def _channel(self, kind: int, number: int) -> NativeChannel | None:
        """Which channel a message is for; None if it is late, for a channel that is closed."""
        channel = self._channels.get(number)
        if channel is None:
            if kind > messages.OPEN_FAILURE and number in self._closed:
                return None
            raise ProtocolError(f"a message of type {kind} for channel {number}, which is not open")
        if not channel.is_answered and kind > messages.OPEN_FAILURE:
            raise ProtocolError(f"a message of type {kind} for channel {number}, which is not open yet")
        return channel

    # ------------------------------------------------------------------------------------------- asyncssh's

    def send_packet(self, payload: bytes) -> None:
        """Take a packet of asyncssh's. After KEXINIT channels wait until NEWKEYS (RFC 4253 7.1)."""
        self._outgoing.put(payload)
        if payload[0] == messages.KEXINIT:
            self._outgoing.is_rekeying = True
            self._flow.keys(is_rekeying=True)

    def send_sealed(self, packet: bytes) -> None:
        """Take a packet that asyncssh has sealed with the new keys."""
        self._outgoing.put_sealed(packet)

    def sending_sequence(self) -> int:
        """The sequence number of our next packet."""
        return self._outgoing.sequence

    def sending_keys(self, keys: Keys) -> None:
        """Our NEWKEYS is sent."""
        self._outgoing.change_keys(keys)
        self._flow.keys(is_rekeying=False)

    def receiving_keys(self, keys: Keys) -> None:
        """The gateway's NEWKEYS has arrived."""
        self._incoming.change_keys(keys)

    # ------------------------------------------------------------------------------------------- the link

    def _sent(self, unsent: int) -> None:
        """There was a write, and `unsent` bytes wait. A peer that does not read our answers is not read."""
        if is_behind(self._carrier) and self._polling is None:
            self._polling = self._loop.call_later(POLL_S, self._poll)
        self._flow.written(unsent if self._polling is None else HIGH_WATER + 1)
        self._writes = self._writes + 1 if unsent else 0
        if unsent > MOST_UNREAD or self._writes > MOST_WRITES:
            self._valve.close(Reason.UNREAD)

    def _poll(self) -> None:
        """Look whether a jump host has taken what it was given: nothing tells us when it has."""
        self._polling = None
        if self._transport.is_closing():
            return
        if is_behind(self._carrier):
            self._polling = self._loop.call_later(POLL_S, self._poll)
        elif not self._transport.get_write_buffer_size():
            self._flow.drained()

    def _turn_ends(self, written: int) -> None:
        nread, self._received_before = (
            self._incoming.received - self._received_before,
            self._incoming.received,
        )
        self._flow.turn_ends()
        self._incoming.turn_ends()
        self._gathering.read(nread)
        if written:
            self._handover.sent(written)
        elif nread and self._socket is not None and not self._transport.is_closing():
            # sshd leaves Nagle's algorithm on for forwarded connections: it holds a small packet back until
            # we acknowledge the one before, and our kernel delays that by 40 ms. What we write carries the
            # acknowledgement anyway. Large reads need it too: without it, answers of 256 KiB in a row had a
            # p99 of 43 ms instead of 0.6.
            with suppress(OSError, ValueError):  # ValueError: the first hop's socket is closed already
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def _congestion(self, is_congested: bool) -> None:
        self._uncharge()
        if is_congested:
            self._charged = self._transport.get_write_buffer_size()
            self._budget.charge(self._charged)
            self._flow.congested()
        else:
            self._writes = 0
            self._valve.open(Reason.UNREAD)
            self._outgoing.schedule()  # what has been read and waits
            self._flow.drained()

    def _transport_lost(self, exc: Exception | None) -> None:
        self._gathering.close()
        if self._polling is not None:
            self._polling.cancel()
        if self._socket is not None:
            self._socket.detach()  # it is the transport's, and closed by now
            self._socket = None
        self._handover.lost(exc)
        self._on_lost(exc)

    def _uncharge(self) -> None:
        self._budget.release(self._charged)
        self._charged = 0

    def _overflow(self) -> None:
        self._incoming.stop()
        self._fail(
            ProtocolError(f"the gateway exchanges keys without end: {MOST_DEFERRED} messages wait for them")
        )

    def _fail(self, error: ProtocolError) -> None:
        self._on_error(error)
        self._handover.fail(error)


def _tcp_socket(conn: asyncssh.SSHClientConnection) -> socket.socket | None:
    """The socket under the connection (behind a jump host: the first hop's); None if a command carries it.

    An object of ours: uvloop makes a new one for each option that is set, with two more system calls.
    """
    theirs: socket.socket | None = conn.get_extra_info("socket")
    if theirs is None or theirs.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    # Set on uvloop's object: if it fails, an object of ours would be collected, and close a descriptor that
    # is uvloop's.
    theirs.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOT_SENT_LOW_WATER)
    return socket.socket(theirs.family, theirs.type, theirs.proto, theirs.fileno())
