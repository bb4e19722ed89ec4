"""`limits.max_connections`, for the whole daemon. Pure."""

from __future__ import annotations


class Admission:
    """Counts who is in."""

    __slots__ = ("active", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.active = 0

    def enter(self) -> bool:
        """Let one more in, if there is room."""
        if self.active >= self.limit:
            return False
        self.active += 1
        return True

    def leave(self) -> None:
        """One has left."""
        self.active -= 1
