"""Runs work once if several callers request it at the same time; all of them get the result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from proxy.runtime.tasks import Tasks

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Shared(Generic[K, T]):
    """The running work of one owner, by key. It continues when a caller is cancelled."""

    def __init__(self, owner: str) -> None:
        self._tasks = Tasks(owner)
        self._running: dict[K, asyncio.Task[T]] = {}

    def __len__(self) -> int:
        """How many keys have work that runs."""
        return len(self._running)

    def __contains__(self, key: K) -> bool:
        return key in self._running

    async def run(self, key: K, work: Callable[[], Coroutine[Any, Any, T]], *, name: str) -> T:
        """The result of the work for `key`. If none runs, `work()` is started as a task called `name`."""
        task = self._running.get(key)
        if task is None:
            task = self._running[key] = self._tasks.spawn(work(), name=name)
            task.add_done_callback(lambda _: self._running.pop(key))
        # Not `await task`: if this caller is cancelled, that would cancel the work for the others.
        await asyncio.wait([task])
        return task.result()

    async def close(self) -> None:
        """Cancel all work, and with it the callers that wait for it."""
        await self._tasks.close()
