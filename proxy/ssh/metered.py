"""Limits what asyncssh does for one connection in a turn of the loop, and how much it keeps in memory for it.

This is for handshakes, jump hosts, and links on asyncssh's own channels. Without it, asyncssh handles
everything that one read has brought, up to 256 KiB of the smallest packets. During a key exchange it keeps
the answers to all requests of the peer (as OpenSSH did: CVE-2025-26466). It writes to its transport even if
the peer does not read. And a message for a channel that was just closed ends the connection. All of this is
so in release 2.24.
"""

# ruff: noqa: SLF001 - asyncssh's private parts are what this module is for

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

import asyncssh

from proxy.ssh.internals import Connection
from proxy.ssh.native.wire import messages
from proxy.ssh.native.wire.errors import ProtocolError

TURN: Final = 16
"""Packets that asyncssh handles in one turn of the loop: a request with its answer takes up to 0.2 ms."""

COSTLY: Final = range(7, 80)
"""Kinds of messages that end a turn: extensions, key exchange and login.

An RSA signature of 4096 bits takes 7 ms, and a peer may request many.
"""

LISTS: Final = frozenset({7, messages.KEXINIT})
"""Messages that consist of lists: EXT_INFO (RFC 8308) and KEXINIT."""

LONGEST_LIST: Final = 32 << 10
"""Bytes of the longest list of extensions or algorithms that we accept.

OpenSSH's lists have 2 KiB. asyncssh accepts 256 KiB, and needs 120 ms for such a list.
"""

ANSWERS: Final = frozenset({81, 82, messages.OPEN_FAILURE, messages.WINDOW_ADJUST, 99, messages.FAILURE})
"""Messages that a peer makes asyncssh send. During a key exchange asyncssh keeps all of them."""

MOST_QUEUED: Final = 200
"""How many global requests may wait while one is handled. A client that registers forwards sends all of them
at once.

asyncssh has no limit for them. It answers unknown ones in a recursion.
"""

MOST_ANSWERS: Final = 10_000
"""How many answers may wait for new keys. OpenSSH asks once per ClientAliveInterval."""

SMALLEST_PACKET: Final = 512
"""Bytes of data that a peer must accept in a packet. asyncssh cuts data into packets all at once: 64 KiB in
packets of one byte blocked the loop for ten seconds. Servers accept 16 KiB and more.
"""

MOST_UNREAD: Final = 2 << 20
"""Bytes that may wait in the transport. With more, the peer is not read.

Clients add no bytes above 0.5 MiB, so the bytes above that are answers to the peer.
"""

MOST_UNOPENED: Final = 512 << 10
"""Received bytes that may wait while asyncssh handles a packet in a task. It is more than the largest packet.
uvloop reads up to 8 MiB in a turn, and asyncssh copies the waiting bytes at each read.
"""

MOST_KEPT: Final = 8 << 20
"""Bytes that may wait for new keys.

A jump host carries one channel, whose window is 2 MiB with OpenSSH. Clients on our own channels are paused
during a key exchange.
"""

MOST_BELOW: Final = 4 << 20
"""Bytes that may wait for a jump host. With more, the clients behind it are paused. The window of a usual
jump host is smaller.
"""

POLL_S: Final = 0.02
"""Seconds between two checks whether enough bytes were taken: there is no callback for that."""

_LARGEST: Final = slice(13, 17)
"""The largest packet in an OPEN_CONFIRMATION (RFC 4254 5.1), after the type, two numbers and the window."""

REMEMBERED: Final = 1024
"""How many closed channels are remembered, the latest ones."""


class Metered:
    """Limits one asyncssh connection, from its first byte on."""

    def __init__(self, conn: Connection) -> None:
        self._conn = cast("Any", conn)
        self._loop = asyncio.get_running_loop()
        self._left = TURN
        self._answers = 0
        self._kept = 0
        self._is_counting = False
        self.is_held = False
        """Whether received packets wait for the next turn, and the transport is paused."""
        self.most_unopened = MOST_UNOPENED
        self.gate: Callable[[Callable[[], None]], bool] | None = None
        """Returns whether packets may be handled now. If not, it calls its argument later, when they may."""
        self._is_queued = False
        self._is_full = False
        self._is_stopped = False
        self._receive = self._conn._recv_data
        self._finish, self._send = self._conn._finish_recv_packet, self._conn.send_packet
        self._process = self._conn.process_packet
        # Instance attributes hide the methods: asyncssh looks them up at each call.
        self._conn.process_packet, self._conn._recv_data = self._processed, self._received
        self._conn._finish_recv_packet, self._conn.send_packet = self._finished, self._sent
        self._conn._channels = Channels()

    def _received(self) -> None:
        """Bytes have arrived, or waiting bytes can be opened now."""
        if self._is_queued:
            return
        if self.gate is not None and not self.gate(self._admitted):
            self._is_queued = True
            self._pause()
            return
        self._opened()

    def _admitted(self) -> None:
        """Handle the received bytes: the gate has called back."""
        self._is_queued = False
        if self._is_there:
            self._opened()
            if not (self.is_held or self._is_full or self._is_queued):
                self._resume()

    def _opened(self) -> None:
        self._receive()
        if self._conn._transport is None:
            # The connection has ended, but the transport still reads until the next turn
            self._conn._inpbuf = b""
        elif len(self._conn._inpbuf) > self.most_unopened:
            self._is_full = True
            self._pause()
        elif self._is_full and not self.is_held:
            self._is_full = False
            self._resume()

    def _processed(self, kind: int, sequence: int, packet: Any) -> Any:
        """A packet for the connection itself. Raises asyncssh.ProtocolError."""
        if kind == messages.FIRST and len(self._conn._global_request_queue) >= MOST_QUEUED:
            raise asyncssh.ProtocolError(f"it makes {MOST_QUEUED} requests and does not wait for the answers")
        if kind in LISTS and (size := len(packet.get_full_payload())) > LONGEST_LIST:
            raise asyncssh.ProtocolError(f"a message of type {kind} has {size} bytes")
        if kind == messages.OPEN_CONFIRMATION:
            largest = int.from_bytes(packet.get_full_payload()[_LARGEST])
            if largest < SMALLEST_PACKET:
                raise asyncssh.ProtocolError(f"it opens a channel for packets of {largest} bytes")
        return self._process(kind, sequence, packet)

    def _finished(self, kind: int, sequence: int, _task: object = None, *, is_async: bool = False) -> None:
        """A packet has been handled."""
        self._finish(kind, sequence)
        if self._is_stopped:  # it was handled by a task that has ended after the takeover
            return
        self._left -= TURN if kind in COSTLY else 1
        if not self._is_counting:
            self._is_counting = True
            self._loop.call_soon(self._turn_ends)
        if self._left <= 0 or self._is_unread:
            self._hold()
        elif is_async and self._conn._inpbuf:
            self._conn._recv_data()

    def stop(self) -> None:
        """The native plane reads from now on, and pauses the transport itself."""
        self.is_held, self._is_full, self._is_stopped = False, False, True
        self._conn._recv_data = self._receive

    @property
    def _is_unread(self) -> bool:
        transport = self._conn._transport
        return transport is not None and transport.get_write_buffer_size() > MOST_UNREAD

    def _hold(self) -> None:
        """Handle no more packets in this turn. asyncssh does the same while it is busy with a packet."""
        self.is_held = True
        self._conn._recv_handler = lambda: False
        self._pause()

    def _turn_ends(self) -> None:
        self._is_counting, self._left = False, TURN
        if not self.is_held:
            return
        if self._is_unread:
            self._is_counting = True
            self._loop.call_later(POLL_S, self._turn_ends)
            return
        self.is_held = False
        self._conn._recv_handler = self._conn._recv_pkthdr
        self._conn._recv_data()
        if not (self.is_held or self._is_full or self._is_queued):
            self._resume()

    def _pause(self) -> None:
        if self._is_there:
            self._conn._transport.pause_reading()

    def _resume(self) -> None:
        if self._is_there:
            self._conn._transport.resume_reading()

    @property
    def _is_there(self) -> bool:
        transport = self._conn._transport
        return transport is not None and not transport.is_closing()

    def _sent(self, kind: int, *args: bytes, handler: object = None) -> None:
        """Let asyncssh send a packet, or keep it until the key exchange ends."""
        conn = self._conn
        if conn._kex_complete:
            self._answers = self._kept = 0
        elif kind >= messages.FIRST:
            self._answers += kind in ANSWERS
            self._kept += sum(map(len, args))
            if self._answers > MOST_ANSWERS or self._kept > MOST_KEPT:
                # Not raised: the caller may be the transport of another client.
                fail(
                    conn,
                    f"it exchanges keys without end: {self._kept} bytes wait for them, with "
                    f"{self._answers} answers",
                )
                return
        self._send(kind, *args, handler=handler)

    @property
    def unsent(self) -> int:
        """Bytes that the kernel has not taken yet, including those of the jump hosts below."""
        transport, below = self._conn._transport, carrier(self._conn)
        waiting: int = transport.get_write_buffer_size() if transport is not None else 0
        return self._kept + waiting + (below.unsent if below is not None else 0)


def limits_of(conn: Connection) -> Metered | None:
    """The Metered of `conn`, if it has one."""
    found = getattr(cast("Any", conn)._finish_recv_packet, "__self__", None)
    return found if isinstance(found, Metered) else None


def carrier(conn: Connection) -> Metered | None:
    """The Metered of the jump host's connection that carries `conn`; None without a jump host."""
    transport = cast("Any", conn)._transport
    below = cast("Any", transport)._conn if isinstance(transport, asyncssh.SSHTCPChannel) else None
    return limits_of(below) if below is not None else None


def is_behind(below: Metered | None) -> bool:
    """Whether too many bytes wait for a jump host. Its window alone is no limit: it may have 4 GiB."""
    return below is not None and below.unsent > MOST_BELOW


def fail(conn: Any, message: str) -> None:
    """End the connection: the peer broke the protocol."""
    if conn._transport is not None:
        conn._send_disconnect(asyncssh.DISC_PROTOCOL_ERROR, message, "en")
        conn._force_close(ProtocolError(message))


class Channels(dict[int, Any]):
    """The channels of a connection. In place of a channel that was just closed, it returns a `_Late`."""

    def __init__(self) -> None:
        super().__init__()
        self._closed: deque[int] = deque(maxlen=REMEMBERED)

    def __delitem__(self, number: int) -> None:
        super().__delitem__(number)
        self._closed.append(number)

    def __getitem__(self, number: int) -> Any:
        channel = self.get(number)
        if channel is None:
            if number in self._closed:
                return _LATE
            raise KeyError(number)
        # Closed on both sides, and about to be removed. A channel that is being opened is `closed` as well.
        is_closed = channel._recv_state == "close_pending" or (
            channel._recv_state == "closed" and channel._open_waiter is None
        )
        return _LATE if is_closed else channel


class _Late:
    """Stands for a closed channel, and drops its late messages."""

    def log_received_packet(self, *_: object) -> None:
        """Asyncssh calls it for each packet."""

    def process_packet(self, kind: int, _sequence: int, packet: Any) -> bool:
        """Drop a well-formed message. Raises asyncssh.ProtocolError for a malformed one."""
        try:
            message = memoryview(packet.get_full_payload())
            if kind == messages.DATA:
                messages.parse_data(message)
            else:
                messages.check(kind, message)
        except ProtocolError as exc:
            raise asyncssh.ProtocolError(str(exc)) from None
        return True


_LATE: Final = _Late()
