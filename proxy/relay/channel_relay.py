"""Relays between two channels: the channel of an SSH client, and the channel to its target.

Each of the two directions ends with its own end of file. When both have ended, both channels are closed. If
one channel is closed before that, the other is closed, too: after it has sent the bytes that wait, if the
close was in order, otherwise at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from proxy.errors import ProxyError
from proxy.errors.reasons import Reason
from proxy.metrics import Traffic
from proxy.relay.budget import MemoryBudget
from proxy.relay.direction import Direction
from proxy.relay.interfaces import Channel, OnEnd

_OF_KEY: Final = frozenset({Reason.KEY_EXPIRED, Reason.KEY_REMOVED})
"""With these reasons kubemux itself ends the link of a client. So the client has not reset its connections.
"""


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
        self._to: Direction | None = None
        self._from: Direction | None = None
        self._has_ended = False
        self.first_byte_at: float | None = None
        self.reason: Reason | None = None

    def __repr__(self) -> str:
        return f"<ChannelRelay to={self._to} from={self._from}>"

    @property
    def to_cluster(self) -> int:
        return self._to.nbytes if self._to else 0

    @property
    def from_cluster(self) -> int:
        return self._from.nbytes if self._from else 0

    @property
    def is_client_paused(self) -> bool:
        return self._to is not None and self._to.is_paused

    @property
    def is_cluster_paused(self) -> bool:
        return self._from is not None and self._from.is_paused

    @property
    def has_started(self) -> bool:
        return self._to is not None

    @property
    def is_client_gone(self) -> bool:
        """Always False: the client's link reports a lost client by itself."""
        return False

    async def start(self) -> None:
        """See `Relay.start`. Raises ConnectionResetError, MemoryExhausted."""
        try:
            client = self._accept()
        except BaseException:
            self._channel.abort()
            raise
        to = self._to = Direction(self, client, self._channel, self._budget, self._loop)
        back = self._from = Direction(self, self._channel, client, self._budget, self._loop)
        to.back, back.back = back, to
        for direction in (back, to):
            if direction.is_open:
                direction.source.attach(direction)
        for direction in (back, to):
            direction.begin()

    # ------------------------------------------------------------------------- called by the directions

    def passed(self, direction: Direction, nbytes: int) -> None:
        """A source has delivered bytes."""
        if direction is self._to:
            self._traffic.to_cluster += nbytes
        else:
            self._traffic.from_cluster += nbytes
            if self.first_byte_at is None:
                self.first_byte_at = self._loop.time()

    def eof(self, direction: Direction) -> None:
        """A source has sent its end of file."""
        closed = Reason.CLIENT_CLOSED if direction is self._to else Reason.CLUSTER_CLOSED
        self.reason = self.reason or closed

    def sent_eof(self) -> None:
        """A direction has sent its end of file. After the second one, close both channels."""
        both = [direction for direction in (self._to, self._from) if direction is not None]
        if all(direction.has_sent_eof for direction in both):
            for direction in both:
                direction.close_sink()

    def lost(self, direction: Direction, error: ProxyError | None) -> None:
        """A source is closed: close the other channel, in order or at once."""
        other = direction.back
        is_in_order = error is None
        if direction is self._to:
            reason = Reason.CLIENT_CLOSED
            if error is not None:
                reason = error.reason if error.reason in _OF_KEY else Reason.CLIENT_RESET
            self.reason = self.reason or reason
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
        if self._to is not None and self._to.is_open and not self._to.had_eof:
            self.reason = self.reason or reason
            self._to.stop()

    def abort(self, reason: Reason) -> None:
        """See `Relay.abort`. It does not wait until the peers have closed their sides."""
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
