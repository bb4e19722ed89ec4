"""Limits how often equal events are logged."""

from __future__ import annotations

from time import monotonic


class Seldom:
    """Lets at most `most` events through in each period of `seconds`, and counts the others."""

    def __init__(self, seconds: float, most: int = 1) -> None:
        self._seconds = seconds
        self._most = most
        self._count = 0
        self._since = float("-inf")
        self._left = 0

    def __repr__(self) -> str:
        return f"<Seldom {self._count} since the last>"

    def __call__(self) -> int:
        """Count an event. Returns 0 if no line is due now.

        Otherwise it returns how many events the line stands for: this one, and those since the last line.
        """
        self._count += 1
        now = monotonic()
        if now - self._since >= self._seconds:
            self._since, self._left = now, self._most
        if not self._left:
            return 0
        self._left -= 1
        count, self._count = self._count, 0
        return count
