"""Tells when a site comes and goes all the time. It is served as ever; only the log is calm then."""

from __future__ import annotations

from collections import deque
from typing import Final

MANY: Final = 6
"""So many logins within `WINDOW_S` are flapping."""
WINDOW_S: Final = 60.0
AGAIN_S: Final = 600.0
"""Seconds between two log entries about a site that flaps."""


class Flapping:
    """The logins of one site. Times are seconds of one clock."""

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=MANY)
        self._said: float | None = None

    def __bool__(self) -> bool:
        return self._said is not None

    def came(self, now: float) -> bool:
        """Note a login; returns whether the log is to say that the site flaps."""
        self._last.append(now)
        if self._said is None:
            is_news = len(self._last) == MANY and now - self._last[0] <= WINDOW_S
        else:
            is_news = now - self._said >= AGAIN_S
        if is_news:
            self._said = now
        return is_news

    def is_over(self, now: float) -> bool:
        """Whether a site that flapped has not logged in for a while: True once."""
        if self._said is None or now - self._last[-1] <= WINDOW_S:
            return False
        self._said = None
        return True
