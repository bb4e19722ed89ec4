"""The native data plane of one link: it joins asyncssh's connection, `Outgoing`, `Incoming` and channels."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import asyncssh

from proxy.errors import LinkError
from proxy.relay.budget import MemoryBudget
from proxy.runtime.endpoint import Endpoint
from proxy.ssh.data_plane import OnAnswer
from proxy.ssh.internals import Connection
from proxy.ssh.metered import POLL_S, carrier, is_behind
from proxy.ssh.native.flow import HIGH_WATER, Flow
from proxy.ssh.native.gathering import Gathering
from proxy.ssh.native.handover import Handover
from proxy.ssh.native.incoming import LARGEST_DATA, Incoming
from proxy.ssh.native.native_channel import NativeChannel
from proxy.ssh.native.numbers import Numbers
from proxy.ssh.native.outgoing import MOST_DEFERRED, Outgoing
from proxy.ssh.native.valve import Reason, Valve
from proxy.ssh.native.wire import messages
from proxy.ssh.native.wire.errors import ProtocolError
from proxy.ssh.native.wire.keys import Keys
from proxy.ssh.open_requests import Limit, OnRefused, OnRequest, OpenRequests
from proxy.ssh.pace import BULK
from proxy.ssh.turns import Turns

NOT_SENT_LOW_WATER: Final = 512 << 10
"""Bytes that the kernel may hold without having sent them.

A request cannot overtake them any more. So many are enough to keep a link of 10 Gbit/s busy.
"""

OPEN_COST: Final = 16
"""A channel request of the peer counts as this many messages: a whole connection may be made of it."""

MOST_UNREAD: Final = 2 << 20
"""Bytes that may wait in the link's transport; with more, the link is not read.

Clients add no bytes above 0.5 MiB, so the bytes above that are answers to the peer.
"""

MOST_WRITES: Final = 4096
"""Writes that may wait in the transport. uvloop needs 300 bytes for each, however short it is."""


class NativePlane:
    """A `proxy.ssh.data_plane.DataPlane`."""

    mode: Final = "native"

    def __init__(
        self,
        conn: Connection,
        budget: MemoryBudget,
        turns: Turns,
        *,
        on_error: Callable[[ProtocolError], None],
        on_lost: Callable[[Exception | None], None],
        on_ended: Callable[[], None],
        on_request: OnRequest | None = None,
        on_refused: OnRefused = lambda *_: None,
        limit: Limit = lambda _: "",
    ) -> None:
        """Take the connection over. Raises Unsupported, and then the connection is as it was.

        `on_error` is called when the peer breaks the protocol, before the connection ends; `on_lost` when the
        transport is gone; `on_ended` when a channel has ended. `on_request`, `on_refused` and `limit` are
        as in `OpenRequests`. None of them is called before this has returned.
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
        # Through a jump host, the socket is the one to the jump host.
        is_tunnelled = isinstance(taken.transport, asyncssh.SSHTCPChannel)
        self._gathering = Gathering(taken.transport, None if is_tunnelled else self._socket)
        self._charged = 0
        self._numbers = numbers = Numbers()
        self.release, self.closed, self._find = numbers.release, numbers.closed, numbers.find
        self._live: dict[NativeChannel, None] = {}
        self._writes = 0
        self._carrier = carrier(conn)
        self._polling: asyncio.TimerHandle | None = None
        self.error: LinkError | None = None
        """Why the connection has ended."""
        self._bulk_in = 0
        self._received_before = 0
        self._keeping: NativeChannel | None = None
        self._kind = messages.FORWARDED if conn.is_server() else messages.DIRECT
        self._requests = OpenRequests(
            self, budget, on_request=on_request, on_refused=on_refused, limit=limit, on_answered=on_ended
        )
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
        # No bytes should wait in the transport: if the kernel does not take all of them, the link is
        # congested.
        taken.transport.set_write_buffer_limits(high=0)
        self._handover.attach(self._incoming)
        self._incoming.start(taken.received)

    def __len__(self) -> int:
        """Channels open or being opened, by us or by the peer."""
        return len(self._live) + len(self._requests)

    def __contains__(self, channel: object) -> bool:
        return channel in self._live

    @property
    def round_trip(self) -> float:
        """Seconds of a round trip without load."""
        return self._flow.round_trip

    @round_trip.setter
    def round_trip(self, seconds: float) -> None:
        self._flow.round_trip = seconds

    @property
    def received(self) -> int:
        """Bytes that have arrived so far."""
        return self._incoming.received

    @property
    def bulk(self) -> int:
        """Bytes in full packets so far, in both directions."""
        return self._bulk_in + self._outgoing.bulk

    # ------------------------------------------------------------------------------------------- channels

    def open(self, window: int, target: Endpoint, origin: Endpoint, on_answer: OnAnswer) -> NativeChannel:
        """Ask the peer for a channel. Its receive window `window` is acquired from the budget already."""
        channel = NativeChannel(self, self._outgoing, self._flow, self._budget, window, on_answer)
        if self.error is not None:
            channel.lost(self.error)
        else:
            self._outgoing.send(
                messages.open_tcpip(self._kind, channel.number, window, LARGEST_DATA, target, origin)
            )
        return channel

    def accept(self, asked: messages.Open, window: int) -> NativeChannel:
        """See `proxy.ssh.open_requests.Answers`."""
        channel = NativeChannel(self, self._outgoing, self._flow, self._budget, window, lambda _: None)
        self._outgoing.send(messages.open_confirmation(asked.sender, channel.number, window, LARGEST_DATA))
        channel.confirmed(messages.Confirmation(asked.sender, asked.window, asked.largest))
        return channel

    def refuse(self, asked: messages.Open, code: int, text: str) -> None:
        """See `proxy.ssh.open_requests.Answers`."""
        self._outgoing.send(messages.open_failure(asked.sender, code, text))

    def add(self, channel: NativeChannel) -> int:
        """Add a new channel. Returns our number for it."""
        self._live[channel] = None
        return self._numbers.allocate(channel)

    def ended(self, channel: NativeChannel) -> None:
        """`channel` has ended: forget it."""
        del self._live[channel]
        self._requests.ended(channel)
        self._on_ended()

    def send_directly(self, message: bytes) -> bool:
        """See `proxy.ssh.data_plane.DataPlane`."""
        self._outgoing.put(message)
        return True

    def lost(self, error: LinkError) -> None:
        """The connection has ended: end every channel with `error`."""
        self.error = error
        self._requests.lost()
        self._uncharge()
        for channel in list(self._live):
            channel.lost(error)
        self._outgoing.lost()

    async def close(self) -> None:
        """See `proxy.ssh.data_plane.DataPlane`. This one has no tasks."""

    def _message(self, kind: int, message: memoryview) -> bool:
        if kind == messages.DATA:
            number, data = messages.parse_data(message)
            channel = self._find(kind, number)
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
        if kind == messages.OPEN:
            self._incoming.costs(OPEN_COST)
            self._requests.asked(message)
            return has_views
        channel = self._find(kind, messages.recipient(message))
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
            raise messages.unexpected(kind)
        return has_views

    def _pass_on(self) -> bool:
        """Let the channel whose packets were collected pass them on, in one write."""
        if self._keeping is None:
            return False
        kept, self._keeping = self._keeping, None
        return kept.pass_on()

    # ---------------------------------------------------------------------------------------- for asyncssh

    def send_packet(self, payload: bytes) -> None:
        """Send a packet of asyncssh. From KEXINIT until NEWKEYS, channels must wait (RFC 4253 7.1)."""
        self._outgoing.put(payload)
        if payload[0] == messages.KEXINIT:
            self._outgoing.is_rekeying = True
            self._flow.keys(is_rekeying=True)

    def send_sealed(self, packet: bytes) -> None:
        """Send a packet that asyncssh has sealed with the new keys."""
        self._outgoing.put_sealed(packet)

    def sending_sequence(self) -> int:
        """The sequence number of our next packet."""
        return self._outgoing.sequence

    def sending_keys(self, keys: Keys) -> None:
        """Our NEWKEYS is sent: seal with `keys` from now on."""
        self._outgoing.change_keys(keys)
        self._flow.keys(is_rekeying=False)

    def receiving_keys(self, keys: Keys) -> None:
        """The peer's NEWKEYS has arrived: open with `keys` from now on."""
        self._incoming.change_keys(keys)

    # ------------------------------------------------------------------------------------------- the link

    def _sent(self, unsent: int) -> None:
        """After a write: `unsent` bytes wait. If the peer does not read our answers, stop reading from it."""
        if is_behind(self._carrier) and self._polling is None:
            self._polling = self._loop.call_later(POLL_S, self._poll)
        self._flow.written(unsent if self._polling is None else HIGH_WATER + 1)
        self._writes = self._writes + 1 if unsent else 0
        if unsent > MOST_UNREAD or self._writes > MOST_WRITES:
            self._valve.close(Reason.UNREAD)

    def _poll(self) -> None:
        """Check whether the jump host has taken our bytes: there is no callback for that."""
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
            # we acknowledge the one before, and our kernel delays that by 40 ms. If we write in this turn,
            # that carries the acknowledgement. Large reads need it, too: without it, answers of 256 KiB in a
            # row had a p99 of 43 ms instead of 0.6.
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
            self._outgoing.schedule()  # `_turn_ends` then opens what was read and waits
            self._flow.drained()

    def _transport_lost(self, exc: Exception | None) -> None:
        self._gathering.close()
        if self._polling is not None:
            self._polling.cancel()
        if self._socket is not None:
            self._socket.detach()  # the transport owns the descriptor, and has closed it
            self._socket = None
        self._handover.lost(exc)
        self._on_lost(exc)

    def _uncharge(self) -> None:
        self._budget.release(self._charged)
        self._charged = 0

    def _overflow(self) -> None:
        self._incoming.stop()
        self._fail(
            ProtocolError(f"the peer exchanges keys without end: {MOST_DEFERRED} messages wait for them")
        )

    def _fail(self, error: ProtocolError) -> None:
        self._on_error(error)
        self._handover.fail(error)


def _tcp_socket(conn: Connection) -> socket.socket | None:
    """The TCP socket that carries the connection (with jump hosts: that to the first); None for a
    ProxyCommand.

    It is a socket object of our own for the descriptor of the transport. With uvloop's object, each option
    that we set would cost two more system calls.
    """
    theirs: socket.socket | None = conn.get_extra_info("socket")
    if theirs is None or theirs.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    # Set through uvloop's object, before there is ours: if the call failed, the garbage collector would close
    # ours, and with it uvloop's descriptor.
    theirs.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOT_SENT_LOW_WATER)
    return socket.socket(theirs.family, theirs.type, theirs.proto, theirs.fileno())
