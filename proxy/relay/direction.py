"""One direction between two channels: from its source to its sink.

A direction is the user of its source, and copies delivered bytes into the buffer of its sink. While the sink
is full, the source is paused, and its peer gets no credit for the bytes that wait. So at most one window of
the source waits here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, Protocol

from proxy.errors import ProxyError
from proxy.relay.budget import MemoryBudget
from proxy.relay.interfaces import Channel, Pieces

TURN: Final = 256 << 10
"""Bytes that a direction copies in one turn of the loop.

A channel that was paused delivers up to a whole window at once. A window may have 64 MiB, and the other link
needs 50 ms to encrypt that.
"""


class Owner(Protocol):
    """The relay, as its directions see it."""

    def passed(self, direction: Direction, nbytes: int) -> None:
        """A source has delivered bytes."""

    def eof(self, direction: Direction) -> None:
        """A source has sent its end of file."""

    def sent_eof(self) -> None:
        """A direction has sent its end of file."""

    def lost(self, direction: Direction, error: ProxyError | None) -> None:
        """A source is closed; `error` says why, None if its peer has closed it."""


class Direction:
    """The user of `source`. It sends delivered bytes to `sink`."""

    __slots__ = (
        "_budget",
        "_charged",
        "_has_paused",
        "_is_held",
        "_is_pumping",
        "_is_sink_full",
        "_is_stopped",
        "_loop",
        "_relay",
        "_rest",
        "_sink",
        "_wants_close",
        "_wants_eof",
        "back",
        "had_eof",
        "has_sent_eof",
        "is_open",
        "nbytes",
        "source",
    )

    def __init__(
        self,
        relay: Owner,
        source: Channel,
        sink: Channel,
        budget: MemoryBudget,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._relay = relay
        self._budget = budget
        self._loop = loop
        self._sink = sink
        self.source = source
        self.back = self
        """The other direction: its source is our sink."""
        self.nbytes = 0
        """Bytes that the source has delivered so far."""
        self.is_open = True
        """Whether the source is open."""
        self.had_eof = False
        self.has_sent_eof = False
        self._rest: deque[memoryview] = deque()
        """The bytes that wait for the sink. While there are any, the source is paused."""
        self._charged = 0
        self._is_held = True
        self._is_sink_full = False
        self._has_paused = False
        self._is_pumping = False
        self._is_stopped = False
        self._wants_eof = self._wants_close = False

    def __repr__(self) -> str:
        return f"{self.nbytes} eof={self.had_eof} paused={self._has_paused}"

    @property
    def is_paused(self) -> bool:
        """Whether the source waits for the sink."""
        return self._has_paused

    def begin(self) -> None:
        """Start to send. Both channels have their users now, and call them when they are full."""
        self._is_held = False
        self._pump()

    # ------------------------------------------------------------------------------- called by the source

    def channel_data(self, pieces: Pieces, nbytes: int) -> None:
        if self._is_stopped or not self.back.is_open:
            return
        self.nbytes += nbytes
        self._relay.passed(self, nbytes)
        self._rest.extend(map(memoryview, pieces))
        self._pump()

    def channel_eof(self) -> None:
        if not self._is_stopped:
            self._relay.eof(self)
            self.end()

    def channel_full(self) -> None:
        """The source is the sink of the other direction, and is full."""
        self.back.sink_full()

    def channel_writable(self) -> None:
        self.back.sink_writable()

    def channel_lost(self, error: ProxyError | None) -> None:
        if self.is_open:
            self.is_open = False
            self._charge()  # until now, the window of the source counted these bytes
            self._relay.lost(self, error)

    # ----------------------------------------------------------- called by the other direction, for the sink

    def sink_full(self) -> None:
        """The sink is full: pause the source."""
        self._is_sink_full = True
        self._pause()

    def sink_writable(self) -> None:
        """The sink has room: send the bytes that wait, then resume the source."""
        self._is_sink_full = False
        self._pump()

    # -------------------------------------------------------------------------------- called by the relay

    def end(self) -> None:
        """Send the end of file after the bytes that wait."""
        if not self.had_eof:
            self.had_eof = self._wants_eof = True
            self._finish()

    def stop(self) -> None:
        """Drop what the source still delivers, and send the end of file."""
        self._is_stopped = True
        self._pause()
        self.end()

    def close(self) -> None:
        """Send the end of file, and close the sink after it."""
        self._wants_close = True
        self.end()
        self._finish()

    def close_sink(self) -> None:
        """Close the sink. The end of file must have been sent."""
        self._sink.close()

    def abort(self) -> None:
        """Close the source at once: it delivers nothing more."""
        if self.is_open:
            self.is_open = False
            self.source.abort()

    def drop(self) -> None:
        """Drop the bytes that wait: the sink is closed."""
        self._rest.clear()
        self._charge()

    # ----------------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Send the bytes that wait, until the sink is full or TURN bytes have been sent."""
        left, rest, sink = TURN, self._rest, self._sink
        while rest and left > 0 and not (self._is_sink_full or self._is_held):
            piece = rest[0]
            room = sink.get_buffer(len(piece))
            size = min(len(room), len(piece))
            room[:size] = piece[:size]
            if size < len(piece):
                rest[0] = piece[size:]
            else:
                rest.popleft()
            left -= size
            sink.buffer_updated(size)
        if rest:
            self._pause()
            if not (self._is_sink_full or self._is_held or self._is_pumping):
                self._is_pumping = True
                self._loop.call_soon(self._pump_more)
        if rest or self._charged:
            self._charge()
        if not rest:
            if not self._is_sink_full:
                self._resume()
            self._finish()

    def _pump_more(self) -> None:
        self._is_pumping = False
        self._pump()

    def _pause(self) -> None:
        if self.is_open:
            self._has_paused = True
            self.source.pause_reading()  # even if it is paused already: `attach` may have resumed it

    def _resume(self) -> None:
        if self.is_open and self._has_paused and not self._is_stopped:
            self._has_paused = False
            self.source.resume_reading()

    def _finish(self) -> None:
        """If no bytes wait, send the end of file and close the sink, if these are due."""
        if self._rest or not self.back.is_open:
            return
        if self._wants_eof:
            self._wants_eof = False
            self.has_sent_eof = True
            self._sink.write_eof()
            self._relay.sent_eof()
        if self._wants_close:
            self._wants_close = False
            self._sink.close()

    def _charge(self) -> None:
        """Count the bytes that wait against the budget, unless the window of the source counts them."""
        is_counted = self.is_open and self.source.counts_unsent
        waiting = 0 if is_counted else sum(map(len, self._rest))
        if waiting != self._charged:
            self._budget.release(self._charged)
            self._budget.charge(waiting)
            self._charged = waiting
