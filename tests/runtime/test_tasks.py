"""A kept task starts again after every exception, until it is cancelled or returns."""

from __future__ import annotations

import asyncio

import pytest

from proxy.runtime import tasks
from proxy.runtime.tasks import Tasks, is_cancelled


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "AGAIN_S", 0.001)
    monkeypatch.setattr(tasks, "SELDOM_S", 0.004)


@pytest.mark.usefixtures("quick")
async def test_a_kept_task_restarts_after_any_exception() -> None:
    owner, runs = Tasks("test"), 0

    async def run() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise ValueError("a bug")
        if runs == 2:  # a library has cancelled its own future
            stray = asyncio.get_running_loop().create_future()
            stray.cancel()
            await stray
        if runs < 6:
            raise RuntimeError("another")

    async with asyncio.timeout(30):
        await owner.keep(run, name="kept")
    assert runs == 6
    assert len(owner) == 0


@pytest.mark.usefixtures("quick")
async def test_a_kept_task_ends_when_it_is_cancelled() -> None:
    owner, running = Tasks("test"), asyncio.Event()
    was_meant = None

    async def run() -> None:
        nonlocal was_meant
        running.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            was_meant = is_cancelled()
            raise

    task = owner.keep(run, name="kept")
    await running.wait()
    await owner.close()
    assert task.cancelled()
    assert was_meant


async def test_a_pause_between_two_runs_ends_with_the_owner() -> None:
    owner, failed = Tasks("test"), asyncio.Event()

    async def run() -> None:
        failed.set()
        raise ValueError("always")

    owner.keep(run, name="kept")
    await failed.wait()
    await asyncio.sleep(0)
    await owner.close()
    assert len(owner) == 0


async def test_on_end_is_called_even_if_the_task_never_began() -> None:
    owner = Tasks("test")
    began: list[str] = []
    ended: list[asyncio.Task[None]] = []

    async def work(name: str) -> None:
        began.append(name)

    async with asyncio.timeout(30):
        done = owner.spawn(work("done"), name="done", on_end=ended.append)
        await owner.wait()
        never = owner.spawn(work("never"), name="never", on_end=ended.append)
        await owner.close()
        while len(ended) < 2:
            await asyncio.sleep(0)
    assert began == ["done"]
    assert ended == [done, never]
    assert never.cancelled()
    assert len(owner) == 0
