"""Clients that wait for memory: while `limits.memory` is all acquired, a new client is held, not refused.

`max_connections` counts those that wait, so it bounds their number; `limits.hold_timeout` bounds the wait.
What they send meanwhile stays in the kernel. Memory is released with every packet, so a release wakes nobody:
`wake` is called where a connection ends, and by the daemon's heartbeat, for windows that shrink.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import Final

import structlog

from proxy.relay.budget import MemoryBudget

log = structlog.get_logger("kubemux.connection")

SAY_AGAIN_S: Final = 10.0
"""Seconds between two warnings: while memory is short, each probe of each cluster would write one."""


class WaitingForMemory:
    """The clients that wait for memory, first come, first served."""

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._say_at = 0.0
        self._short_since: float | None = None
        """The loop's clock when somebody was last woken, while clients wait."""

    def __len__(self) -> int:
        return len(self._waiting)

    async def wait(self, until: float) -> None:
        """Return when there may be room again. Raises TimeoutError at `until` (the loop's clock).

        If nobody has been woken for longer than this client may wait, it raises at once: those before it have
        waited in vain.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._short_since = now if self._short_since is None else self._short_since
        if until <= now or now - self._short_since > until - now:
            raise TimeoutError
        if loop.time() >= self._say_at:
            self._say_at = loop.time() + SAY_AGAIN_S
            log.warning(
                "clients wait for memory",
                used=self._budget.used,
                limit=self._budget.limit,
                hint="raise limits.memory, or lower limits.max_connections",
            )
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout_at(until):
                await turn
        finally:
            with suppress(ValueError):  # this client was to be woken just now
                self._waiting.remove(turn)

    def wake(self) -> None:
        """Wake as many clients as there is room for."""
        room = (self._budget.limit - self._budget.used) // self._budget.floor
        if room > 0:
            self._short_since = None
        while room > 0 and self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                room -= 1
