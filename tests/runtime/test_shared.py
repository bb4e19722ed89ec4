"""`Shared`: several callers wait for the same work."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from proxy.runtime.shared import Shared

pytestmark = pytest.mark.both_loops


class Work:
    """Ends when the test says so."""

    def __init__(self) -> None:
        self.callers = 0
        self.begun = 0
        self.may_end = asyncio.Event()

    async def do(self) -> int:
        self.begun += 1
        await self.may_end.wait()
        return self.begun

    async def fail(self) -> int:
        await self.do()
        raise ZeroDivisionError

    async def wanted(self, shared: Shared[str, int], *, fails: bool = False) -> int:
        """Wait for it as one of its callers."""
        self.callers += 1
        return await shared.run("a", self.fail if fails else self.do, name="a")

    async def waited_for(self, callers: int) -> None:
        """Wait until it has begun, and has so many callers."""
        async with asyncio.timeout(30):
            while not self.begun or self.callers < callers:
                await asyncio.sleep(0)


async def test_callers_of_one_key_share_the_work_and_others_do_not() -> None:
    shared: Shared[str, int] = Shared("test")
    work, other = Work(), Work()
    other.may_end.set()
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(work.wanted(shared)) for _ in range(3)]
        await work.waited_for(3)
        assert await shared.run("b", other.do, name="b") == 1
        assert work.begun == 1
        assert "a" in shared
        work.may_end.set()
    assert [task.result() for task in waiting] == [1, 1, 1]
    assert len(shared) == 0
    assert await shared.run("a", work.do, name="a") == 2, "work that has ended is not kept"


async def test_a_cancelled_caller_does_not_cancel_the_work_for_others() -> None:
    shared: Shared[str, int] = Shared("test")
    work = Work()
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(work.wanted(shared)) for _ in range(3)]
        await work.waited_for(3)
        waiting[0].cancel()
        work.may_end.set()
    assert waiting[0].cancelled()
    assert (waiting[1].result(), waiting[2].result(), work.begun) == (1, 1, 1)


async def test_all_callers_get_the_error_of_the_work() -> None:
    shared: Shared[str, int] = Shared("test")
    work = Work()
    loop = asyncio.get_running_loop()
    with capture_logs() as logs:
        waiting = [loop.create_task(work.wanted(shared, fails=True)) for _ in range(2)]
        await work.waited_for(2)
        work.may_end.set()
        found = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(one) for one in found] == [ZeroDivisionError] * 2
    assert [entry["task"] for entry in logs] == ["test/a"], "the log has the failure once"


async def test_close_cancels_waiting_callers() -> None:
    shared: Shared[str, int] = Shared("test")
    work = Work()
    waiting = asyncio.get_running_loop().create_task(work.wanted(shared))
    await work.waited_for(1)
    await shared.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
