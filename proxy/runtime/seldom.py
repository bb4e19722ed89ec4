"""Lets few of many equal events be logged."""

from __future__ import annotations

import asyncio


class Seldom:
    """Lets one through in `seconds`, and counts the others."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._count = 0
        self._last = float("-inf")

    def __repr__(self) -> str:
        return f"<Seldom {self._count} since the last>"

    def __call__(self) -> int:
        """Note an event. Returns for how many a line is due now: 0 if none is."""
        self._count += 1
        now = self._loop.time()
        if now - self._last < self._seconds:
            return 0
        count, self._count, self._last = self._count, 0, now
        return count
