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
        self.begun = 0
        self.may_end = asyncio.Event()

    async def do(self) -> int:
        self.begun += 1
        await self.may_end.wait()
        return self.begun


async def test_callers_of_one_key_share_the_work_and_others_do_not() -> None:
    shared: Shared[str, int] = Shared("test")
    work, other = Work(), Work()
    other.may_end.set()
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(shared.run("a", work.do, name="a")) for _ in range(3)]
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
        waiting = [group.create_task(shared.run("a", work.do, name="a")) for _ in range(3)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        waiting[0].cancel()
        work.may_end.set()
    assert waiting[0].cancelled()
    assert (waiting[1].result(), waiting[2].result(), work.begun) == (1, 1, 1)


async def test_all_callers_get_the_error_of_the_work() -> None:
    shared: Shared[str, int] = Shared("test")

    async def fail() -> int:
        raise ZeroDivisionError

    with capture_logs() as logs:
        found = await asyncio.gather(
            *(shared.run("a", fail, name="a") for _ in range(2)), return_exceptions=True
        )
    assert [type(one) for one in found] == [ZeroDivisionError] * 2
    assert [entry["task"] for entry in logs] == ["test/a"], "the log has the failure once"


async def test_close_cancels_waiting_callers() -> None:
    shared: Shared[str, int] = Shared("test")
    waiting = asyncio.get_running_loop().create_task(shared.run("a", Work().do, name="a"))
    await asyncio.sleep(0)
    await shared.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
