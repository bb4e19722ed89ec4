"""To the gateway: all packets of a turn of the loop are sealed into one buffer, which goes out in one write.

`transport.write` calls the kernel at once. With a write for each packet, requests on many connections spent
most of their time in system calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from proxy.ssh.native.buffers import NONE, SENT
from proxy.ssh.native.handover import Transport
from proxy.ssh.native.wire import messages
from proxy.ssh.native.wire.keys import Keys
from proxy.ssh.native.wire.packets import HEADER, OVERHEAD
from proxy.ssh.pace import BULK

DATA_AT: Final = HEADER + messages.DATA_HEADER
"""Bytes of a packet before a client's."""

LITTLE: Final = 32 << 10
"""Bytes: while others wait in the transport, so few are copied, and the buffer is kept."""


MOST_DEFERRED: Final = 1 << 16
"""Messages that wait for new keys: twice as many as 10,000 clients can cause, and 6 MB."""


class Outgoing:
    """Seals and writes.

    `on_written(unsent)` is called after each write, `on_turn(written)` at the end of each turn that was
    scheduled; both in bytes. `on_overflow()` is called once if too many messages wait for new keys.
    """

    def __init__(
        self,
        transport: Transport,
        keys: Keys,
        *,
        on_written: Callable[[int], None],
        on_turn: Callable[[int], None],
        on_overflow: Callable[[], None] = lambda: None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._sealer = keys.sealer()
        self._on_written = on_written
        self._on_turn = on_turn
        self._on_overflow = on_overflow
        self._buffer = NONE
        self._end = 0
        self._written = 0
        self._is_scheduled = False
        self._lent: list[memoryview] = []
        self._deferred: list[bytes] = []
        self.bulk = 0
        """Bytes of full packets so far. Small packets do not count: nobody waits behind a turn full of those.
        """
        self.is_rekeying = False
        """Keys are being exchanged: nothing of a channel may go out (RFC 4253 9)."""

    @property
    def sequence(self) -> int:
        """The sequence number of the next packet."""
        return self._sealer.sequence

    # ------------------------------------------------------------------------------------- a client's bytes

    def put_data(self, recipient: int, source: memoryview, at: int, nbytes: int) -> None:
        """A DATA packet of `nbytes` at `at` of `source`; the header's bytes before them and PADDING behind
        are overwritten.
        """
        if len(self._buffer) - self._end < nbytes + messages.DATA_HEADER + OVERHEAD:
            self._make_room()
        if nbytes >= BULK:
            self.bulk += nbytes
        at -= messages.DATA_HEADER
        messages.put_data_header(source, at, recipient, nbytes)
        self._end = self._sealer.seal_from(source, at, nbytes + messages.DATA_HEADER, self._buffer, self._end)
        self.schedule()

    # --------------------------------------------------------------------------------------- everything else

    def say(self, message: bytes) -> None:
        """Send a channel's message; it waits while keys are exchanged."""
        if not self.is_rekeying:
            self.put(message)
        elif len(self._deferred) < MOST_DEFERRED:
            self._deferred.append(message)
            if len(self._deferred) == MOST_DEFERRED:
                self._on_overflow()

    def put(self, payload: bytes) -> None:
        """Send a packet of `payload` now."""
        if len(self._buffer) - self._end < len(payload) + OVERHEAD:
            self._make_room()
        start = self._end + HEADER
        self._buffer[start : start + len(payload)] = payload
        self._end = self._sealer.seal(self._buffer, self._end, len(payload))
        self.schedule()

    def put_sealed(self, packet: bytes) -> None:
        """Send a packet that is sealed already."""
        if len(self._buffer) - self._end < len(packet):
            self._make_room()
        self._buffer[self._end : self._end + len(packet)] = packet
        self._end += len(packet)
        self.schedule()

    def change_keys(self, keys: Keys) -> None:
        """Seal with `keys` from here on. What has waited for them goes first."""
        self._sealer = keys.sealer()
        self.is_rekeying = False
        deferred, self._deferred = self._deferred, []
        for message in deferred:
            self.put(message)

    # ------------------------------------------------------------------------------------------------ writing

    def schedule(self) -> None:
        """Have this turn end with a write, if there is something to write, and with `on_turn`."""
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._end_turn)

    def flush(self) -> None:
        """Write what there is."""
        nbytes, self._end = self._end, 0
        if not nbytes or self._transport.is_closing():
            return
        waits = self._transport.get_write_buffer_size()
        self._written += nbytes
        if waits and nbytes <= LITTLE:
            self._transport.write(bytes(self._buffer[:nbytes]))
            self._on_written(waits + nbytes)
            return
        self._transport.write(self._buffer[:nbytes])
        if unsent := self._transport.get_write_buffer_size():
            # uvloop keeps the memoryview of what it could not write: the buffer is uvloop's until nothing
            # waits.
            self._lent.append(self._buffer)
            self._buffer = NONE
        else:
            self._give_back()
        self._on_written(unsent)

    def _make_room(self) -> None:
        self.flush()
        if not self._buffer:
            self._buffer = SENT.acquire()

    def _give_back(self) -> None:
        while self._lent:
            SENT.release(self._lent.pop())

    def _end_turn(self) -> None:
        self._is_scheduled = False
        self.flush()
        if self._buffer:
            SENT.release(self._buffer)
            self._buffer = NONE
        written, self._written = self._written, 0
        self._on_turn(written)
