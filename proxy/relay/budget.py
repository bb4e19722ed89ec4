"""`limits.memory` as one number that every buffer and every granted window is taken from.

SSH has no way to take a granted window back (RFC 4254 5.2), so a window counts in full from the moment it is
granted: the peer may fill all of it. Half of the budget is set aside so that each of `max_connections`
channels can have its `floor`; the other half is the bonus that windows grow from, and what one channel may
take of it shrinks as it is used up.
"""

from __future__ import annotations

from typing import Final

INITIAL_WINDOW: Final = 256 << 10
"""Bytes: what a fresh channel gets while there is plenty.

A list of a few hundred pods fits without a round trip.
"""

SMALLEST_WINDOW: Final = 4 << 10
"""Bytes. Below this, the framing of SSH and TLS outweighs the data."""


class MemoryBudget:
    """The daemon's memory for data in flight, in bytes. One loop, no locks."""

    __slots__ = ("_bonus", "floor", "limit", "used")

    def __init__(self, limit: int, connections: int) -> None:
        self.resize(limit, connections)
        self.used = 0

    def __repr__(self) -> str:
        return f"<MemoryBudget {self.used} of {self.limit}, floor {self.floor}>"

    def resize(self, limit: int, connections: int) -> None:
        """New limits; what is granted stays granted."""
        self.limit = limit
        self.floor = max(SMALLEST_WINDOW, min(64 << 10, limit // 2 // connections))
        self._bonus = limit // 2

    @property
    def is_tight(self) -> bool:
        """Whether the bonus is gone: readers should take small bites."""
        return self.used >= self._bonus

    @property
    def is_exhausted(self) -> bool:
        """Whether even a floor would go over the limit."""
        return self.used + self.floor > self.limit

    def acquire_initial(self) -> int:
        """Take a fresh channel's window and return its size; 0 if the budget is exhausted."""
        if self.is_exhausted:
            return 0
        window = max(self.floor, min(INITIAL_WINDOW, (self._bonus - self.used) // 256))
        self.used += window
        return window

    def acquire_growth(self, window: int, ceiling: int) -> int:
        """Take what doubles `window` (at most to `ceiling`) and return it; 0 if that is not to be had."""
        growth = min(window, ceiling - window)
        if growth <= 0 or growth > (self._bonus - self.used) // 2:
            return 0
        self.used += growth
        return growth

    def charge(self, nbytes: int) -> None:
        """Count bytes that are already there (unsent, unread); they are never refused."""
        self.used += nbytes

    def release(self, nbytes: int) -> None:
        """Return what was taken or charged."""
        self.used -= nbytes
