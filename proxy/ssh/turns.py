"""Notes which link sends, because all links of a daemon share one loop."""

from __future__ import annotations


class Turns:
    """The link that sent last, and how often another link than before has sent."""

    __slots__ = ("_last", "changes")

    def __init__(self) -> None:
        self._last: object = None
        self.changes = 0

    def sent(self, who: object) -> None:
        """`who` has sent something in this turn of the loop."""
        if who is not self._last:
            self._last = who
            self.changes += 1
