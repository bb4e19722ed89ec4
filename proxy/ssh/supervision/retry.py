"""The wait before a gateway's next dial: how long it is, and what ends it early."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from proxy.errors import RetryClass
from proxy.ssh.governor import Backoff


class Retry:
    """One gateway's. `on_delay` is told the seconds of each wait that begins, and 0 when it is over."""

    def __init__(self, on_delay: Callable[[float], None]) -> None:
        self.backoff = Backoff()
        self._on_delay = on_delay
        self._due: float | None = None
        self._hurry = asyncio.Event()

    @property
    def is_waiting(self) -> bool:
        """Whether the next dial has to wait."""
        return self._due is not None

    @property
    def seconds(self) -> float | None:
        """Until the next dial; None if nothing keeps it."""
        return None if self._due is None else max(0.0, self._due - asyncio.get_running_loop().time())

    def dial_failed(self, retry: RetryClass) -> float:
        """The seconds to wait after a dial has failed."""
        delay = self.backoff.failed(retry)
        self._wait_for(delay)
        return delay

    def link_lost(self, age: float, *, is_unused: bool) -> None:
        """A link has ended that was up for `age` seconds; `is_unused` if that was for having no channel."""
        self._wait_for(self.backoff.unused() if is_unused else self.backoff.lost(age))

    def hurry(self) -> None:
        """Skip the wait, if there is one."""
        if self.is_waiting:
            self._hurry.set()

    async def wait(self) -> None:
        """Return when the next dial is due."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._due):
                await self._hurry.wait()
        self._hurry.clear()
        self._due = None
        self._on_delay(0.0)

    def _wait_for(self, seconds: float) -> None:
        self._due = asyncio.get_running_loop().time() + seconds
        self._on_delay(seconds)
