"""From the peer: packets are opened in the buffer that they were read into, and passed on from there.

The buffer is released when all of its data is passed on. If a client's transport cannot write a packet's data
at once, it keeps a memoryview of the data, and its channel is paused. Then the buffer stays with that client,
and is replaced when there is no room behind the memoryview. For many stalled clients these buffers could be
far larger than their windows, so channels with small windows pass on copies.

In one turn of the loop, only a limited number of messages is opened. The others wait, still sealed, and the
transport is not read until every other link has had a turn. One read can contain 4,500 IGNORE messages, and
100,000 global requests at once blocked the loop for 2.2 s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from proxy.ssh.native.buffers import NONE, RECEIVED
from proxy.ssh.native.valve import Reason, Valve
from proxy.ssh.native.wire import messages
from proxy.ssh.native.wire.chacha import ChachaOpener
from proxy.ssh.native.wire.errors import ProtocolError
from proxy.ssh.native.wire.keys import Keys
from proxy.ssh.native.wire.packets import TAG, Opener

LARGEST_DATA: Final = 48 << 10
"""The most bytes of data that we allow sshd to send in one packet.

sshd reads 32 KiB at a time, and sends one packet of a channel at a time. Data that has collected in sshd
while the link was full goes out faster in larger packets: with a round trip of 100 ms, a download has 165
MB/s with packets of 32 KiB, 356 with 48, and 364 with 64. But sshd's ssh_packet_need_rekeying adds the bytes
of the next packet to a number of blocks (of 16 bytes with AES). With `RekeyLimit 1M` it changed keys for
every packet of 64 KiB: a download had 15 MB/s instead of 35, and a request beside it waited for 7 s instead
of 11 ms.
"""

_LARGEST_PACKET: Final = LARGEST_DATA + 1024
_LEAST_ROOM: Final = 48 << 10

TURN: Final = 256
"""How many messages for channels are opened in one turn of the loop: small ones take 2 ms.

A turn has up to 32 reads, which contain 160 full packets.
"""

ASYNCSSH_COST: Final = 16
"""A message for asyncssh counts as this many channel messages: a global request takes 20 us with its answer.
"""

Handler = Callable[[int, memoryview], bool]


class Incoming(asyncio.BufferedProtocol):
    """The protocol of a link's transport.

    `on_message(kind, payload)` gets channel messages. `on_opened()` is called when everything that was
    received is opened. Both return whether somebody keeps a memoryview of a payload. `on_other(packet,
    sequence)` gets all other messages with their headers, and returns whether the connection still exists.
    `on_error` gets a ProtocolError, after which nothing more is opened. `on_read()` is called when something
    was read or still waits: it must have `turn_ends` called at the end of the turn.
    """

    def __init__(
        self,
        keys: Keys,
        valve: Valve,
        *,
        on_message: Handler,
        on_opened: Callable[[], bool],
        on_other: Callable[[memoryview, int], bool],
        on_error: Callable[[ProtocolError], None],
        on_read: Callable[[], None],
        on_lost: Callable[[Exception | None], None],
        on_congestion: Callable[[bool], None],
    ) -> None:
        self._valve = valve
        self._opener: Opener | ChachaOpener | None = keys.opener(largest=_LARGEST_PACKET)
        self._on_message = on_message
        self._on_opened = on_opened
        self._on_other = on_other
        self._on_error = on_error
        self._on_read = on_read
        self._on_lost = on_lost
        self._on_congestion = on_congestion
        self._view = NONE
        self._start = 0
        self._end = 0
        self._left = TURN
        self._is_waiting = False
        self._is_opening = False
        self._has_views = False
        self.received = 0
        """Bytes received so far, opened or not."""

    def start(self, received: bytes) -> None:
        """Open what arrived before the handover, and read, from the next turn on."""
        self._is_waiting, self._left = True, 0
        self._valve.close(Reason.TURN)
        self.data_received(received)
        self._on_read()

    def stop(self) -> None:
        """Open nothing more."""
        self._opener = None

    # ---------------------------------------------------------------------------------------- the hot path

    def get_buffer(self, sizehint: int) -> memoryview:
        """Room for a large read."""
        del sizehint
        if len(self._view) - self._end < _LEAST_ROOM:
            self._make_room()
        return self._view[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        """Open the packets that have arrived."""
        self._end += nbytes
        self.received += nbytes
        if not self._is_opening:
            self._open()
        self._on_read()

    def _open(self) -> None:
        self._is_opening = True
        error = None
        try:
            while (
                self._left > 0
                and (opener := self._opener) is not None
                and (found := opener.open(self._view, self._start, self._end))
            ):
                packet, (first, last, self._start) = self._start, found
                kind = self._view[first]
                if messages.OPEN <= kind <= messages.FAILURE:
                    self._left -= 1
                    self._has_views |= self._on_message(kind, self._view[first:last])
                else:
                    self._to_asyncssh(kind, packet, opener.sequence - 1)
        except ProtocolError as exc:
            error = exc
            self._has_views = True  # the data of another channel may have been passed on before
        self._has_views |= self._on_opened()  # the packets before a broken one are valid
        if error is not None:
            self.stop()
            self._on_error(error)
        self._is_opening = False
        if self._has_views or self._start == self._end:
            self._release_buffer()
        if self._left <= 0 and not self._is_waiting:
            self._is_waiting = True
            self._valve.close(Reason.TURN)
            self._on_read()

    def costs(self, count: int) -> None:
        """Count the current message as `count` more messages."""
        self._left -= count

    def turn_ends(self) -> None:
        """Every other link has had a turn: open packets that still wait, up to the limit of one turn."""
        self._left = TURN
        if self._is_waiting and not self._valve.is_closed_by(Reason.UNREAD):
            self._is_waiting = False
            self._open()
            if not self._is_waiting:
                self._valve.open(Reason.TURN)

    def _to_asyncssh(self, kind: int, packet: int, sequence: int) -> None:
        self._left -= ASYNCSSH_COST
        if kind == messages.NEWKEYS:
            # The next packets need keys that we may not have yet: asyncssh may still compute them.
            self._opener = None
            self._valve.close(Reason.KEYS)
        if not self._on_other(self._view[packet : self._start - TAG], sequence & 0xFFFFFFFF):
            self.stop()

    def change_keys(self, keys: Keys) -> None:
        """Open the packets after NEWKEYS with `keys`."""
        self._opener = keys.opener(largest=_LARGEST_PACKET)
        if not self._is_opening:
            self._open()
        self._valve.open(Reason.KEYS)

    def _make_room(self) -> None:
        """Move bytes that are not opened yet to the beginning of a buffer that has room behind them."""
        rest = self._view[self._start : self._end]
        if not self._view:
            self._view = RECEIVED.acquire()
        elif self._has_views or len(rest) + _LEAST_ROOM > len(self._view):
            self._replace(rest)
        else:
            self._view[: len(rest)] = rest
            self._start, self._end = 0, len(rest)

    def _release_buffer(self) -> None:
        """Leave the buffer to the clients that have a memoryview of it, or release it.

        Bytes that are not opened yet move to another buffer.
        """
        if self._has_views and len(self._view) - self._end >= _LEAST_ROOM:
            return
        rest = self._view[self._start : self._end]
        if not self._has_views:
            RECEIVED.release(self._view)
        self._replace(rest)

    def _replace(self, rest: memoryview) -> None:
        view = NONE
        # Bytes that wait for new keys, or come through a jump host, may be more than one buffer holds.
        if len(rest) + _LEAST_ROOM > RECEIVED.size:
            view = memoryview(bytearray(len(rest) + 2 * _LEAST_ROOM))
        elif rest:
            view = RECEIVED.acquire()
        view[: len(rest)] = rest
        self._view, self._start, self._end = view, 0, len(rest)
        self._has_views = False

    # ------------------------------------------------------------------------------------------ the transport

    def data_received(self, data: bytes, datatype: int | None = None) -> None:
        """Receive bytes that arrived before the handover, or come through a jump host.

        asyncssh does not fill our buffers, so these bytes are copied.
        """
        del datatype
        rest = memoryview(data)
        while rest:
            room = self.get_buffer(len(rest))
            taken = min(len(room), len(rest))
            room[:taken] = rest[:taken]
            rest = rest[taken:]
            self.buffer_updated(taken)

    def eof_received(self) -> bool:
        """The peer has closed its side. An SSH connection cannot be half closed, so it ends."""
        self._on_lost(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is closed. The last read, which has found the end, may have acquired a buffer."""
        self.stop()
        if not self._is_opening:
            if not self._has_views:
                RECEIVED.release(self._view)
            self._view, self._start, self._end = NONE, 0, 0
        self._on_lost(exc)

    def pause_writing(self) -> None:
        """The kernel has not taken everything."""
        self._on_congestion(True)

    def resume_writing(self) -> None:
        """The kernel has taken everything."""
        self._on_congestion(False)
