"""Work that several callers want at the same time is done once, and all get its result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from proxy.runtime.tasks import Tasks

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Shared(Generic[K, T]):
    """The work of one owner, by its key. It goes on when a caller leaves."""

    def __init__(self, owner: str) -> None:
        self._tasks = Tasks(owner)
        self._running: dict[K, asyncio.Task[T]] = {}

    def __len__(self) -> int:
        """How many pieces of work are being done."""
        return len(self._running)

    def __contains__(self, key: K) -> bool:
        return key in self._running

    async def run(self, key: K, work: Callable[[], Coroutine[Any, Any, T]], *, name: str) -> T:
        """The result of `work()`, which is started as a task called `name` unless the one for `key` runs."""
        task = self._running.get(key)
        if task is None:
            task = self._running[key] = self._tasks.spawn(work(), name=name)
            task.add_done_callback(lambda _: self._running.pop(key))
        # Not `await task`: if this caller is cancelled, that would cancel the work for the others.
        await asyncio.wait([task])
        return task.result()

    async def close(self) -> None:
        """End all work. Who waits for it is cancelled, too."""
        await self._tasks.close()
