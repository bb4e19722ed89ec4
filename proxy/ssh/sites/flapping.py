"""Detects a site that logs in again and again. Such a site is served like any other, but less is logged."""

from __future__ import annotations

from collections import deque
from typing import Final

MANY: Final = 6
"""This many logins within `WINDOW_S` seconds mean that the site flaps."""
WINDOW_S: Final = 60.0
AGAIN_S: Final = 600.0
"""Seconds between two log entries about a site that flaps."""


class Flapping:
    """The logins of one site. Times are seconds of one clock."""

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=MANY)
        self._logged_at: float | None = None

    def __bool__(self) -> bool:
        return self._logged_at is not None

    def logged_in(self, now: float) -> bool:
        """Record a login. Returns whether to log now that the site flaps."""
        self._last.append(now)
        if self._logged_at is None:
            is_news = len(self._last) == MANY and now - self._last[0] <= WINDOW_S
        else:
            is_news = now - self._logged_at >= AGAIN_S
        if is_news:
            self._logged_at = now
        return is_news

    def is_over(self, now: float) -> bool:
        """Whether the flapping has ended: no login for WINDOW_S. Returns True once."""
        if self._logged_at is None or now - self._last[-1] <= WINDOW_S:
            return False
        self._logged_at = None
        return True
