"""Relays between two channels: the channel of an SSH client, and the channel to its target.

Each direction has a source and a sink. It is the user of its source, and copies delivered bytes into the
buffer of its sink. While the sink is full, the source is paused, and its peer gets no credit for the bytes
that wait. So at most one window of the source waits here.

Each direction ends with its own end of file. When both have ended, both channels are closed. If one channel
is closed earlier in order, the other is closed after it has sent the bytes that wait. If the close was not in
order, the other is closed at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from proxy.errors import ProxyError
from proxy.errors.reasons import Reason
from proxy.metrics import Traffic
from proxy.relay.budget import MemoryBudget
from proxy.relay.interfaces import Channel, OnEnd, Pieces

TURN: Final = 256 << 10
"""Bytes that a direction copies in one turn of the loop.

A channel that was paused delivers up to a whole window at once. A window may have 64 MiB, and the other link
needs 50 ms to encrypt that.
"""


class _Direction:
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
        relay: ChannelRelay,
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


class ChannelRelay:
    """A `proxy.relay.interfaces.Relay`. `repr()` shows which side is paused."""

    def __init__(
        self,
        channel: Channel,
        traffic: Traffic,
        budget: MemoryBudget,
        on_end: OnEnd,
        accept: Callable[[], Channel],
    ) -> None:
        """`accept` is that of the client's `proxy.relay.interfaces.OpenRequest`."""
        self._channel = channel
        self._traffic = traffic
        self._budget = budget
        self._on_end = on_end
        self._accept = accept
        self._loop = asyncio.get_running_loop()
        self._to: _Direction | None = None
        self._from: _Direction | None = None
        self._has_ended = False
        self.first_byte_at: float | None = None
        self.reason: Reason | None = None

    def __repr__(self) -> str:
        return f"<ChannelRelay to={self._to} from={self._from}>"

    @property
    def to_cluster(self) -> int:
        """See `proxy.relay.interfaces.Relay`."""
        return self._to.nbytes if self._to else 0

    @property
    def from_cluster(self) -> int:
        """See `proxy.relay.interfaces.Relay`."""
        return self._from.nbytes if self._from else 0

    @property
    def is_client_paused(self) -> bool:
        """See `proxy.relay.interfaces.Relay`."""
        return self._to is not None and self._to.is_paused

    @property
    def is_cluster_paused(self) -> bool:
        """See `proxy.relay.interfaces.Relay`."""
        return self._from is not None and self._from.is_paused

    @property
    def has_started(self) -> bool:
        """See `proxy.relay.interfaces.Relay`."""
        return self._to is not None

    @property
    def is_client_gone(self) -> bool:
        """Always False: the client's link reports a lost client by itself."""
        return False

    async def start(self) -> None:
        """See `proxy.relay.interfaces.Relay`. Raises ConnectionResetError, MemoryExhausted."""
        try:
            client = self._accept()
        except BaseException:
            self._channel.abort()
            raise
        to = self._to = _Direction(self, client, self._channel, self._budget, self._loop)
        back = self._from = _Direction(self, self._channel, client, self._budget, self._loop)
        to.back, back.back = back, to
        for direction in (back, to):
            if direction.is_open:
                direction.source.attach(direction)
        for direction in (back, to):
            direction.begin()

    # ------------------------------------------------------------------------- called by the directions

    def passed(self, direction: _Direction, nbytes: int) -> None:
        """A source has delivered bytes."""
        if direction is self._to:
            self._traffic.to_cluster += nbytes
        else:
            self._traffic.from_cluster += nbytes
            if self.first_byte_at is None:
                self.first_byte_at = self._loop.time()

    def eof(self, direction: _Direction) -> None:
        """A source has sent its end of file."""
        closed = Reason.CLIENT_CLOSED if direction is self._to else Reason.CLUSTER_CLOSED
        self.reason = self.reason or closed

    def sent_eof(self) -> None:
        """A direction has sent its end of file. After the second one, close both channels."""
        both = [direction for direction in (self._to, self._from) if direction is not None]
        if all(direction.has_sent_eof for direction in both):
            for direction in both:
                direction.close_sink()

    def lost(self, direction: _Direction, error: ProxyError | None) -> None:
        """A source is closed: close the other channel, in order or at once."""
        other = direction.back
        is_in_order = error is None
        if direction is self._to:
            self.reason = self.reason or (Reason.CLIENT_CLOSED if is_in_order else Reason.CLIENT_RESET)
        else:
            # A CLOSE without EOF is in order if the client has sent its EOF: asyncssh's server omits its own.
            is_in_order = is_in_order and (direction.had_eof or other.had_eof)
            if error is not None:
                self.reason = error.reason
            self.reason = self.reason or Reason.CLUSTER_RESET
        other.drop()
        if is_in_order and other.is_open:
            direction.close()
        else:
            other.abort()
        self._end_if_closed()

    # -------------------------------------------------------------------------------------------- the end

    def half_close(self, reason: Reason) -> None:
        """See `proxy.relay.interfaces.Relay`."""
        if self._to is not None and self._to.is_open and not self._to.had_eof:
            self.reason = self.reason or reason
            self._to.stop()

    def abort(self, reason: Reason) -> None:
        """See `proxy.relay.interfaces.Relay`. It does not wait until the peers have closed their sides."""
        self.reason = self.reason or reason
        if self._to is None or self._from is None:
            self._channel.abort()
            return
        for direction in (self._to, self._from):
            direction.abort()
        self._end_if_closed()

    def _end_if_closed(self) -> None:
        both = [direction for direction in (self._to, self._from) if direction is not None]
        if not self._has_ended and not any(direction.is_open for direction in both):
            self._has_ended = True
            for direction in both:
                direction.drop()
            self._on_end(self)
