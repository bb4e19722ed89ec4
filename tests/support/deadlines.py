"""Deadlines of the code under test that pass when the test says so, not while a busy machine is late."""

from __future__ import annotations

import asyncio
import threading

import pytest

from proxy.runtime.blocking import Call


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

    def passes(self) -> None:
        """Let it pass for everything that waits now."""
        for loop, running in self._running:
            loop.call_soon_threadsafe(running.reschedule, 0.0)
        self._running.clear()


def wait_for_entry(monkeypatch: pytest.MonkeyPatch, has_entered: threading.Event) -> None:
    """Let the start of a `Call` return when its function has set `has_entered`, so that even the shortest
    timeout does not end before that.
    """
    start = Call.start

    def start_and_wait(call: Call[object]) -> None:
        start(call)
        assert has_entered.wait(60)

    monkeypatch.setattr(Call, "start", start_and_wait)
