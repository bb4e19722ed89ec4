"""Background tasks with an owner and a name.

asyncio keeps only weak references to tasks, and reports the failure of a task only when the task object is
collected (https://docs.python.org/3/library/asyncio-task.html#asyncio.create_task). A `Tasks` belongs to the
object whose work it runs. It logs a failure at once, and its owner closes it.

A task that supervises something is started by `keep`: after an unexpected exception, `keep` logs it and
starts the task again. Otherwise nothing would do that work until the daemon restarts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

import structlog

T = TypeVar("T")

log = structlog.get_logger("kubemux.tasks")

OnEnd = Callable[[asyncio.Task[Any]], None]

AGAIN_S: Final = 1.0
"""Seconds before a kept task starts again; doubled after each failure, up to `SELDOM_S`."""

SELDOM_S: Final = 60.0


def is_cancelled() -> bool:
    """Whether a caught CancelledError is meant for the current task.

    If not, it comes from another future that somebody has cancelled, for example a library. Then it is an
    error like any other.
    """
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


class Tasks:
    """The background tasks of one owner."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._tasks: dict[asyncio.Task[Any], OnEnd | None] = {}

    def __repr__(self) -> str:
        return f"<Tasks {self._owner} {sorted(task.get_name() for task in self._tasks)}>"

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(
        self, work: Coroutine[Any, Any, T], *, name: str, on_end: OnEnd | None = None
    ) -> asyncio.Task[T]:
        """Start `work` as a task called `OWNER/name`. `on_end` is called with it when it has ended.

        A task that is cancelled before its first step runs nothing of `work`: then `on_end` alone is called.
        """
        task = asyncio.get_running_loop().create_task(work, name=f"{self._owner}/{name}")
        self._tasks[task] = on_end
        task.add_done_callback(self._done)
        return task

    def keep(self, run: Callable[[], Coroutine[Any, Any, None]], *, name: str) -> asyncio.Task[None]:
        """Start `run()` as a task called `OWNER/name`, and again after each exception.

        It ends when `run()` returns, or when it is cancelled.
        """
        return self.spawn(self._kept(run, name), name=name)

    async def _kept(self, run: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        loop = asyncio.get_running_loop()
        pause = AGAIN_S
        while True:
            began = loop.time()
            try:
                return await run()
            except (Exception, asyncio.CancelledError) as exc:
                if isinstance(exc, asyncio.CancelledError) and is_cancelled():
                    raise
                if loop.time() - began >= SELDOM_S:
                    pause = AGAIN_S
                log.error(
                    "task failed, and begins anew", task=f"{self._owner}/{name}", again_in=pause, exc_info=exc
                )
            await asyncio.sleep(pause)
            pause = min(SELDOM_S, pause * 2)

    def _done(self, task: asyncio.Task[Any]) -> None:
        on_end = self._tasks.pop(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("task failed", task=task.get_name(), exc_info=error)
        if on_end is not None:
            on_end(task)

    async def wait(self) -> None:
        """Wait until all tasks have ended by themselves, including those that start during the wait."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """Cancel the tasks that still run, and wait until they have ended."""
        current = asyncio.current_task()
        tasks = [task for task in self._tasks if task is not current]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
