"""Deadlines of the code under test that pass when the test says so, not while a busy machine is late."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import Final

import pytest

from proxy.runtime.blocking import Call

HOUR: Final = 3600.0


class Deadline:
    """Stands for each `asyncio.timeout(seconds)` that begins from now on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        self._running: list[tuple[asyncio.AbstractEventLoop, asyncio.Timeout]] = []
        begin = asyncio.timeout

        def timeout(delay: float | None) -> asyncio.Timeout:
            if delay != seconds:
                return begin(delay)
            running = begin(None)
            self._running.append((asyncio.get_running_loop(), running))
            return running

        monkeypatch.setattr(asyncio, "timeout", timeout)

    async def begins(self, count: int = 1) -> None:
        """Wait until it has begun so many times."""
        async with asyncio.timeout(60):
            while len(self._running) < count:
                await asyncio.sleep(0.001)

    def passes(self) -> None:
        """Let it pass for everything that waits now."""
        for loop, running in self._running:
            loop.call_soon_threadsafe(_expire, running)
        self._running.clear()


def _expire(running: asyncio.Timeout) -> None:
    with suppress(RuntimeError):  # what it was for has ended in time
        running.reschedule(0.0)


def wait_for_entry(monkeypatch: pytest.MonkeyPatch, has_entered: threading.Event) -> None:
    """Let the start of a `Call` return when its function has set `has_entered`, so that even the shortest
    timeout does not end before that.
    """
    start = Call.start

    def start_and_wait(call: Call[object]) -> None:
        start(call)
        assert has_entered.wait(60)

    monkeypatch.setattr(Call, "start", start_and_wait)
