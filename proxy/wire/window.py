"""A channel's receive window (RFC 4254 5.2): what the peer may still send, when it is granted more, and how much in all.

A window of W bytes carries at most W per round trip: OpenSSH's 2 MiB are 20 MB/s at 100 ms. A sender that waits for credit
gets half a window of it per half a round trip, so a window half of which goes by in less than two round trips wants to grow.
What was granted cannot be taken back; a window shrinks by granting less than was delivered.
"""

from __future__ import annotations

from typing import Final

from proxy.wire.errors import ProtocolError

IDLE_S: Final = 10.0
"""A window that takes longer than this for its half is bigger than its traffic is worth."""


class ReceiveWindow:
    """All in bytes and seconds. `now` is any monotonic clock."""

    __slots__ = ("_floor", "_granted_at", "_owed", "credit", "size")

    def __init__(self, size: int, *, now: float) -> None:
        self.size = size
        """What the peer may send before it hears from us; counted in full against the daemon's budget."""
        self.credit = size
        """What it may still send."""
        self._floor = size
        self._owed = 0
        self._granted_at = now

    def arrived(self, nbytes: int) -> None:
        """The peer has sent. Raises ProtocolError if it was not allowed to."""
        if nbytes > self.credit:
            raise ProtocolError(f"{nbytes} bytes on a channel whose window has {self.credit}")
        self.credit -= nbytes

    def taken(self, nbytes: int) -> bool:
        """The user has taken; True if it is time to `grant`: half of the window is owed."""
        self._owed += nbytes
        return self._owed * 2 >= self.size

    def is_small(self, now: float, round_trip: float) -> bool:
        """Whether half of it went by within two round trips: the way is longer under load than when it was measured."""
        return now - self._granted_at < 2 * round_trip

    def grow(self, nbytes: int) -> None:
        """Grant that much more with the next grant."""
        self.size += nbytes
        self._owed += nbytes

    def shrink(self, now: float, *, tight: bool) -> int:
        """Keep back some of what is owed, if the window stood idle or memory is `tight`; returns how much."""
        if not tight and now - self._granted_at < IDLE_S:
            return 0
        kept = min(self._owed, self.size // 2, self.size - self._floor)
        self.size -= kept
        self._owed -= kept
        return kept

    def grant(self, now: float) -> int:
        """What the peer is to be told now: 0 if nothing."""
        granted, self._owed = self._owed, 0
        self.credit += granted
        self._granted_at = now
        return granted
