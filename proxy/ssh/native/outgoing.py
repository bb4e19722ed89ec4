"""To the peer: all packets of a turn of the loop are sealed into one buffer, which is written once.

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
"""Bytes in a packet before the client's data."""

MOST_COPIED: Final = 32 << 10
"""Bytes of the largest write that is copied while earlier bytes wait in the transport. The buffer of a copied
write is free at once. Otherwise the transport has it until nothing waits.
"""


MOST_DEFERRED: Final = 1 << 16
"""How many messages may wait for new keys: twice as many as 10,000 clients can cause. They take 6 MB."""


class Outgoing:
    """Seals packets, and writes them to the link.

    `on_written(unsent)` is called after each write, with the bytes that wait in the transport.
    `on_turn(written)` is called at the end of each turn for which `schedule` was called, with the bytes
    written in it. `on_overflow()` is called once if too many messages wait for new keys.
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
        """Bytes sent in full packets. Small packets do not count: no request waits long behind them."""
        self.is_rekeying = False
        """Keys are being exchanged: no channel may send (RFC 4253 9)."""

    @property
    def sequence(self) -> int:
        """The sequence number of the next packet."""
        return self._sealer.sequence

    # ------------------------------------------------------------------------------------- a client's bytes

    def put_data(self, recipient: int, source: memoryview, at: int, nbytes: int) -> None:
        """Seal a DATA packet from the `nbytes` bytes at `at` of `source`.

        The bytes of the header before them and PADDING bytes after them are overwritten.
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

    def send(self, message: bytes) -> None:
        """Send a message of a channel, during a key exchange as soon as it has ended."""
        if not self.is_rekeying:
            self.put(message)
        elif len(self._deferred) < MOST_DEFERRED:
            self._deferred.append(message)
            if len(self._deferred) == MOST_DEFERRED:
                self._on_overflow()

    def put(self, payload: bytes) -> None:
        """Seal `payload` as a packet now, also during a key exchange."""
        if len(self._buffer) - self._end < len(payload) + OVERHEAD:
            self._make_room()
        start = self._end + HEADER
        self._buffer[start : start + len(payload)] = payload
        self._end = self._sealer.seal(self._buffer, self._end, len(payload))
        self.schedule()

    def put_sealed(self, packet: bytes) -> None:
        """Add a packet that is sealed already."""
        if len(self._buffer) - self._end < len(packet):
            self._make_room()
        self._buffer[self._end : self._end + len(packet)] = packet
        self._end += len(packet)
        self.schedule()

    def change_keys(self, keys: Keys) -> None:
        """Seal with `keys` from now on, beginning with the messages that waited for them."""
        self._sealer = keys.sealer()
        self.is_rekeying = False
        deferred, self._deferred = self._deferred, []
        for message in deferred:
            self.put(message)

    # ------------------------------------------------------------------------------------------------ writing

    def schedule(self) -> None:
        """At the end of this turn, write what was sealed, if anything, and call `on_turn`."""
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._end_turn)

    def flush(self) -> None:
        """Write everything that is sealed."""
        nbytes, self._end = self._end, 0
        if not nbytes or self._transport.is_closing():
            return
        waits = self._transport.get_write_buffer_size()
        self._written += nbytes
        if waits and nbytes <= MOST_COPIED:
            self._transport.write(bytes(self._buffer[:nbytes]))
            self._on_written(waits + nbytes)
            return
        self._transport.write(self._buffer[:nbytes])
        if unsent := self._transport.get_write_buffer_size():
            # uvloop keeps the memoryview of what it could not write, so it has the buffer until nothing
            # waits.
            self._lent.append(self._buffer)
            self._buffer = NONE
        else:
            self._release_lent()
        self._on_written(unsent)

    def _make_room(self) -> None:
        self.flush()
        if not self._buffer:
            self._buffer = SENT.acquire()

    def _release_lent(self) -> None:
        while self._lent:
            SENT.release(self._lent.pop())

    def lost(self) -> None:
        """The link has ended: leave the lent buffers to the transport, which may still have views of them."""
        self._lent.clear()

    def _end_turn(self) -> None:
        self._is_scheduled = False
        self.flush()
        if self._buffer:
            SENT.release(self._buffer)
            self._buffer = NONE
        written, self._written = self._written, 0
        self._on_turn(written)
