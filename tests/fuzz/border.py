"""Stand-ins for asyncssh's connection, its transport and the clock around a native data plane."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from proxy.ssh.native.handover import TakenOver
from proxy.ssh.native.wire import messages
from proxy.ssh.native.wire.keys import Keys
from proxy.ssh.native.wire.packets import HEADER

KEYS = Keys(bytes(16), bytes(12))


class ManualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock only the test advances. It collects unhandled errors."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.unhandled: list[dict[str, Any]] = []
        self.set_exception_handler(lambda _, context: self.unhandled.append(context))

    def time(self) -> float:
        """Seconds."""
        return self.now


class Wire:
    """A transport that can stall, and can be paused."""

    def __init__(self, hear: Callable[[bytes | memoryview], None]) -> None:
        """`hear` is called with written bytes when the wire sends them."""
        self._hear = hear
        self._unsent: list[bytes | memoryview] = []
        self.protocol: Any = None
        self.arrived = bytearray()
        """Bytes from the peer that the protocol has not read yet."""
        self.is_stalled = False
        self.is_over = False
        self._is_paused = False
        self._is_delivering = False
        self._at_once = 1

    def deliver(self, at_once: int) -> None:
        """Let the protocol read the bytes, at most `at_once` in one read."""
        self._at_once = at_once
        if self._is_delivering:
            return
        self._is_delivering = True
        while self.arrived and not self._is_paused and not self.is_over:
            if isinstance(self.protocol, asyncio.Protocol):  # asyncssh, before the login
                read = bytes(self.arrived[:at_once])
                del self.arrived[:at_once]
                self.protocol.data_received(read)
                continue
            room = self.protocol.get_buffer(-1)
            assert len(room), "an empty buffer ends a connection"
            size = min(len(room), at_once, len(self.arrived))
            room[:size] = self.arrived[:size]
            del self.arrived[:size]
            self.protocol.buffer_updated(size)
        self._is_delivering = False

    def stall(self, *, is_stalled: bool) -> None:
        """Stop sending, as when the kernel's buffer is full; or send again."""
        self.is_stalled = is_stalled
        if not is_stalled and self._unsent:
            unsent, self._unsent = self._unsent, []
            for data in unsent:
                self._hear(data)
            self.protocol.resume_writing()

    def write(self, data: bytes | memoryview) -> None:
        """Send the bytes. While the wire stalls, keep them without a copy, as uvloop does.

        The high-water mark is zero.
        """
        assert not self.is_over
        if not self.is_stalled:
            self._hear(data)
            return
        self._unsent.append(data)
        if len(self._unsent) == 1:
            self.protocol.pause_writing()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Set the protocol that reads from now on."""
        self.protocol = protocol

    def get_extra_info(self, name: str, default: object = None) -> object:
        """No socket, no addresses."""
        del name
        return default

    def abort(self) -> None:
        """End the transport; the protocol's `connection_lost` follows in the next turn of the loop."""
        if not self.is_over:
            self.is_over = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def get_write_buffer_size(self) -> int:
        """How many bytes wait to be sent."""
        return sum(map(len, self._unsent))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Ignore the limits: the high-water mark is always zero."""
        del low
        assert high == 0

    def is_closing(self) -> bool:
        """Whether the link has ended."""
        return self.is_over

    def pause_reading(self) -> None:
        """Stop delivering."""
        self._is_paused = True

    def resume_reading(self) -> None:
        """Deliver again, from the next turn of the loop on, as a transport does."""
        self._is_paused = False
        if self.arrived:
            asyncio.get_running_loop().call_soon(self._deliver_soon)

    def _deliver_soon(self) -> None:
        self.deliver(self._at_once)


class Border:
    """Replaces `proxy.ssh.native.handover.Handover` and the asyncssh connection that it takes over."""

    def __init__(self, wire: Wire) -> None:
        self.protocol: Any = None
        self.waits_for_keys = False
        """Whether the peer has sent NEWKEYS, and the new keys are not set yet: later packets cannot be
        opened.
        """
        self._wire = self._transport = wire

    def __call__(self, *_: object) -> Border:
        """Stand in for the constructor of `Handover`."""
        return self

    def get_extra_info(self, name: str) -> None:
        """No socket: nothing to set options on."""
        del name

    def is_server(self) -> bool:
        """The peer is a client, which may open channels as we do."""
        return True

    def begin(self) -> TakenOver:
        """Reset to the state of a connection that has just logged in."""
        return TakenOver(self._wire, KEYS, KEYS, b"")

    def attach(self, protocol: asyncio.BufferedProtocol) -> None:
        """Set the protocol that receives."""
        self.protocol = self._wire.protocol = protocol

    def to_asyncssh(self, packet: memoryview, sequence: int) -> bool:
        """Accept a message that belongs to no channel. Returns whether the connection is still open."""
        del sequence
        assert len(packet) > HEADER
        self.waits_for_keys |= packet[HEADER] == messages.NEWKEYS
        return not self._wire.is_over

    def sent(self, nbytes: int) -> None:
        """Count sent bytes, for the next key exchange."""
        assert nbytes > 0

    def fail(self, error: Exception) -> None:
        """The peer broke the protocol: the connection is closed at once."""
        del error
        self._wire.is_over = True

    def lost(self, exc: Exception | None) -> None:
        """The transport is gone."""
        del exc
