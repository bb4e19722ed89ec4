"""`limits.max_connections`: how many clients the daemon serves at a time. Pure."""

from __future__ import annotations


class Admission:
    """Counts the clients of all clusters, and compares the count with the limit."""

    __slots__ = ("active", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.active = 0

    def enter(self) -> bool:
        """Count one more client; False if there is no room for it."""
        if self.active >= self.limit:
            return False
        self.active += 1
        return True

    def leave(self) -> None:
        self.active -= 1
