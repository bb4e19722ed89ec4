"""The wait before the next dial of a gateway: how long it is, and who ends it early."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from proxy.errors import RetryClass
from proxy.ssh.governor import Backoff


class Retry:
    """The wait of one gateway. `on_delay` gets the seconds when the wait begins, and 0 when it ends."""

    def __init__(self, on_delay: Callable[[float], None]) -> None:
        self.backoff = Backoff()
        self._on_delay = on_delay
        self._due: float | None = None
        self._ended_early = asyncio.Event()

    @property
    def is_waiting(self) -> bool:
        """Whether the next dial must wait."""
        return self._due is not None

    @property
    def seconds(self) -> float | None:
        """Seconds until the next dial; None if it need not wait."""
        return None if self._due is None else max(0.0, self._due - asyncio.get_running_loop().time())

    def dial_failed(self, retry: RetryClass) -> float:
        """A dial failed. Returns the seconds to wait."""
        delay = self.backoff.failed(retry)
        self._wait_for(delay)
        return delay

    def link_lost(self, age: float, *, is_unused: bool) -> None:
        """A link ended after `age` seconds; `is_unused` if it had no channel, and ended for that."""
        self._wait_for(self.backoff.unused() if is_unused else self.backoff.lost(age))

    def end_wait(self) -> None:
        """End the wait, if there is one."""
        if self.is_waiting:
            self._ended_early.set()

    async def wait(self) -> None:
        """Return when the next dial is due."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._due):
                await self._ended_early.wait()
        self._end()

    def end_if_due(self) -> None:
        """End the wait if its time is over: on demand, often no task is in `wait` that would end it."""
        if self._ended_early.is_set() or self.seconds == 0:
            self._end()

    def _end(self) -> None:
        self._ended_early.clear()
        self._due = None
        self._on_delay(0.0)

    def _wait_for(self, seconds: float) -> None:
        self._due = asyncio.get_running_loop().time() + seconds
        self._on_delay(seconds)
