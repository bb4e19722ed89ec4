"""`limits.memory`: the budget from which every buffer and every granted window is acquired.

SSH cannot revoke a granted window (RFC 4254 5.2). So a window counts in full from the moment when it is
granted: the peer may fill all of it. Half of the budget is reserved, so that each of `max_connections`
channels can have its `floor`. The other half is the bonus, from which windows grow: the less of it is left,
the less one channel may acquire.
"""

from __future__ import annotations

from typing import Final

INITIAL_WINDOW: Final = 256 << 10
"""Bytes that a new channel gets while the budget is nearly unused.

A list of a few hundred pods fits in it, so that no round trip is needed for more window.
"""

SMALLEST_WINDOW: Final = 4 << 10
"""Bytes. In a smaller window, the headers of SSH and TLS would take more room than the data."""


class MemoryBudget:
    """The daemon's memory for data in flight, in bytes. One loop, no locks."""

    __slots__ = ("_bonus", "floor", "limit", "used")

    def __init__(self, limit: int, connections: int) -> None:
        self.resize(limit, connections)
        self.used = 0

    def __repr__(self) -> str:
        return f"<MemoryBudget {self.used} of {self.limit}, floor {self.floor}>"

    def resize(self, limit: int, connections: int) -> None:
        """Change the limits. What is acquired already stays so, even above the new limit."""
        self.limit = limit
        self.floor = max(SMALLEST_WINDOW, min(64 << 10, limit // 2 // connections))
        self._bonus = limit // 2

    @property
    def is_tight(self) -> bool:
        """Whether the bonus is used up: readers should read small pieces."""
        return self.used >= self._bonus

    @property
    def is_exhausted(self) -> bool:
        """Whether even a floor would go over the limit."""
        return self.used + self.floor > self.limit

    def acquire_initial(self) -> int:
        """Acquire a new channel's window and return its size; 0 if the budget is exhausted."""
        if self.is_exhausted:
            return 0
        window = max(self.floor, min(INITIAL_WINDOW, (self._bonus - self.used) // 256))
        self.used += window
        return window

    def acquire_growth(self, window: int, ceiling: int) -> int:
        """Acquire the bytes that double `window`, up to `ceiling`, and return them; 0 if too few are left."""
        growth = min(window, ceiling - window)
        if growth <= 0 or growth > (self._bonus - self.used) // 2:
            return 0
        self.used += growth
        return growth

    def charge(self, nbytes: int) -> None:
        """Count bytes that are in a buffer already, because they were not sent or not read. Never refuses."""
        self.used += nbytes

    def release(self, nbytes: int) -> None:
        """Release what was acquired or charged."""
        self.used -= nbytes
