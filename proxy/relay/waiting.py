"""Clients that wait for memory: while all of `limits.memory` is acquired, a new client waits, and is not
refused.

`max_connections` also counts the clients that wait, so it bounds their number. `limits.hold_timeout` bounds
the wait. What they send in that time stays in the kernel.

Memory is released with every packet, so a release itself wakes no client: that would be too often. `wake` is
called when a connection ends, and by the daemon's heartbeat, because windows shrink, too.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import Final

import structlog

from proxy.relay.budget import MemoryBudget

log = structlog.get_logger("kubemux.connection")

WARN_AGAIN_S: Final = 10.0
"""Seconds between two warnings. Otherwise each probe of each cluster would log one while memory is short."""


class WaitingForMemory:
    """The clients that wait for memory, first come, first served."""

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._warn_at = 0.0
        self._short_since: float | None = None
        """Since when there has been no room for a client (the loop's clock); None if there was room last."""

    def __len__(self) -> int:
        return len(self._waiting)

    async def wait(self, until: float) -> None:
        """Return when there may be room again. Raises TimeoutError at `until` (the loop's clock).

        It raises at once if there has been no room for longer than this client may wait: the clients that
        came before it are still waiting.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._short_since = now if self._short_since is None else self._short_since
        if until <= now or now - self._short_since > until - now:
            raise TimeoutError
        if loop.time() >= self._warn_at:
            self._warn_at = loop.time() + WARN_AGAIN_S
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
            with suppress(ValueError):  # `wake` has removed it already
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
