"""Limits how many clients make a step of their login in one turn of the loop: first come, first served.

A step of a key exchange takes a millisecond. Without a limit, a hundred clients at once blocked the loop, and
so all relays, for 0.3 s.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

AT_ONCE: Final = 4
"""Steps in a turn of the loop."""


class Gate:
    """All clients of the server share one gate."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Callable[[], None]] = deque()
        self._left = AT_ONCE
        self._is_counting = False

    def __call__(self, go: Callable[[], None]) -> bool:
        """Whether the caller may make its step now. If not, `go` is called later, and makes it then."""
        self._count()
        if self._left and not self._waiting:
            self._left -= 1
            return True
        self._waiting.append(go)
        return False

    def _count(self) -> None:
        if not self._is_counting:
            self._is_counting = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._is_counting, self._left = False, AT_ONCE
        while self._waiting and self._left:
            self._left -= 1
            self._waiting.popleft()()
        if self._waiting:
            self._count()
