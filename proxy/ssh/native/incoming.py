"""From the gateway: packets are opened where they were received, and handed on from there.

A buffer takes what arrives, and goes back when all of it is handed on. A client's transport that cannot pass
a packet's data on at once keeps a memoryview of it (and its channel is paused by then): the buffer is left to
it, and another takes over once there is no room behind that. A buffer for each of many clients that stall
would be far more than their windows.

In one turn of the loop so much is opened and no more: what else has come waits unopened, and the transport is
not read until everybody else has had a turn. One read holds 4,500 IGNOREs, and 100,000 global requests in one
go held the loop for 2.2 s.
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
"""Bytes of data in a packet that we offer to take.

sshd reads 32 KiB at a time and sends one packet of a channel at a time, so what has come together while the
way was full goes out faster in larger ones: at 100 ms a download has 165 MB/s with packets of 32 KiB, 356
with 48 and 364 with 64. But its ssh_packet_need_rekeying adds the next packet's bytes to a count of blocks
(of 16 bytes under AES): under `RekeyLimit 1M` it changed keys for every packet of 64 KiB, a download had 15
MB/s instead of 35, and a request beside it waited for 7 s instead of 11 ms.
"""

_LARGEST_PACKET: Final = LARGEST_DATA + 1024
_LEAST_ROOM: Final = 48 << 10

TURN: Final = 256
"""What is opened in one turn of the loop, counted in messages for channels: 2 ms of small ones.

Of full packets the 32 reads of a turn bring 160.
"""

DEAR: Final = 16
"""As so many counts a message that goes to asyncssh: a global request takes 20 us with its answer."""

Handler = Callable[[int, memoryview], bool]


class Incoming(asyncio.BufferedProtocol):
    """The protocol of a link's transport.

    `on_message(kind, payload)` gets channel messages; `on_opened()` is called when all that was received is
    opened. Both say whether somebody has a memoryview of a payload now. `on_other(packet, sequence)` gets the
    rest, header included, and says whether the connection is still there. `on_error` gets the one
    ProtocolError after which nothing more is opened. `on_read()` is called when there was something to read
    or there still is: it has the turn end with `turn_ends`.
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
        """Bytes so far, as they came."""

    def start(self, received: bytes) -> None:
        """Open what came before we did, and read from the next turn on: the transport may be paused now."""
        self._is_waiting = True
        self._valve.close(Reason.TURN)
        self.data_received(received)
        self._on_read()

    def stop(self) -> None:
        """Open nothing more."""
        self._opener = None

    # ---------------------------------------------------------------------------------------- the hot path

    def get_buffer(self, sizehint: int) -> memoryview:
        """Room for a good read."""
        del sizehint
        if len(self._view) - self._end < _LEAST_ROOM:
            self._make_room()
        return self._view[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        """Open what has arrived."""
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
                if messages.OPEN < kind <= messages.FAILURE:
                    self._left -= 1
                    self._has_views |= self._on_message(kind, self._view[first:last])
                else:
                    self._to_asyncssh(kind, packet, opener.sequence - 1)
        except ProtocolError as exc:
            error = exc
            self._has_views = True  # the message that broke it may have had another's data passed on first
        self._has_views |= self._on_opened()  # what came before a broken packet is sound
        if error is not None:
            self.stop()
            self._on_error(error)
        self._is_opening = False
        if self._has_views or self._start == self._end:
            self._let_go()
        if self._left <= 0 and not self._is_waiting:
            self._is_waiting = True
            self._valve.close(Reason.TURN)
            self._on_read()

    def turn_ends(self) -> None:
        """Everybody else has had a turn: what still waits is opened, as much as may be in one."""
        self._left = TURN
        if self._is_waiting and not self._valve.is_closed_by(Reason.UNREAD):
            self._is_waiting = False
            self._open()
            if not self._is_waiting:
                self._valve.open(Reason.TURN)

    def _to_asyncssh(self, kind: int, packet: int, sequence: int) -> None:
        self._left -= DEAR
        if kind == messages.NEWKEYS:
            # What follows is under keys that asyncssh has yet to give us; it may still be busy with the
            # exchange.
            self._opener = None
            self._valve.close(Reason.KEYS)
        if not self._on_other(self._view[packet : self._start - TAG], sequence & 0xFFFFFFFF):
            self.stop()

    def change_keys(self, keys: Keys) -> None:
        """Open what follows NEWKEYS with these."""
        self._opener = keys.opener(largest=_LARGEST_PACKET)
        if not self._is_opening:
            self._open()
        self._valve.open(Reason.KEYS)

    def _make_room(self) -> None:
        """Move what is not opened yet to the front of a buffer that has room behind it."""
        rest = self._view[self._start : self._end]
        if not self._view:
            self._view = RECEIVED.acquire()
        elif self._has_views or len(rest) + _LEAST_ROOM > len(self._view):
            self._replace(rest)
        else:
            self._view[: len(rest)] = rest
            self._start, self._end = 0, len(rest)

    def _let_go(self) -> None:
        """Leave the buffer to whoever has a memoryview of it, or give it back; what is not opened yet moves
        to another.
        """
        if self._has_views and len(self._view) - self._end >= _LEAST_ROOM:
            return
        rest = self._view[self._start : self._end]
        if not self._has_views:
            RECEIVED.release(self._view)
        self._replace(rest)

    def _replace(self, rest: memoryview) -> None:
        view = NONE
        if len(rest) + _LEAST_ROOM > RECEIVED.size:  # it waits for new keys, or came through a jump host
            view = memoryview(bytearray(len(rest) + 2 * _LEAST_ROOM))
        elif rest:
            view = RECEIVED.acquire()
        view[: len(rest)] = rest
        self._view, self._start, self._end = view, 0, len(rest)
        self._has_views = False

    # ------------------------------------------------------------------------------------------ the transport

    def data_received(self, data: bytes, datatype: int | None = None) -> None:
        """What arrived before, or through a jump host's channel: asyncssh does not fill buffers of ours."""
        del datatype
        rest = memoryview(data)
        while rest:
            room = self.get_buffer(len(rest))
            taken = min(len(room), len(rest))
            room[:taken] = rest[:taken]
            rest = rest[taken:]
            self.buffer_updated(taken)

    def eof_received(self) -> bool:
        """The gateway hangs up: there is no half of an SSH connection."""
        self._on_lost(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is gone."""
        self.stop()
        self._on_lost(exc)

    def pause_writing(self) -> None:
        """The kernel does not take everything."""
        self._on_congestion(True)

    def resume_writing(self) -> None:
        """It has taken everything."""
        self._on_congestion(False)
