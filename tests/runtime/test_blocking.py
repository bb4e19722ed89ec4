"""Places for calls that may hang: the error names the call that hangs, no other call waits for it, and the
process can end.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from weakref import ref

import pytest

from proxy.runtime.blocking import Call, Hangs, Place, doing
from tests.support.deadlines import wait_for_entry

pytestmark = pytest.mark.both_loops


class Gate:
    """A function that hangs until the test opens it."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self.entered = 0
        self.has_entered = threading.Event()

    def pass_through(self, what: str) -> str:
        doing(f"reading {what}")
        self.entered += 1
        self.has_entered.set()
        assert self._open.wait(60)
        return what

    def open(self) -> None:
        self._open.set()


@pytest.fixture
async def gate() -> AsyncIterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()


async def test_a_call_returns_the_functions_result_and_its_thread_ends() -> None:
    assert await Place("here").run(divmod, 17, 5, timeout=30) == (3, 2)
    async with asyncio.timeout(30):
        while "here" in {thread.name for thread in threading.enumerate()}:
            await asyncio.sleep(0.001)


async def test_a_call_raises_the_functions_exception() -> None:
    place = Place("here")
    with pytest.raises(FileNotFoundError):
        await place.run(open, "/no/such/file", timeout=30)
    assert await place.run(divmod, 17, 5, timeout=30) == (3, 2), "the place is free again"


async def test_the_error_names_the_hanging_call_and_the_next_call_fails_at_once(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for_entry(monkeypatch, gate.has_entered)
    place = Place("keys of edge")
    with pytest.raises(
        Hangs, match=r"^reading /nfs/key has been hanging since 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ$"
    ) as first:
        await place.run(gate.pass_through, "/nfs/key", timeout=0.05)
    with pytest.raises(Hangs) as second:
        async with asyncio.timeout(60):
            await place.run(gate.pass_through, "/another", timeout=3600)
    assert str(second.value) == str(first.value), "the message is the same, so the log has it once"
    assert gate.entered == 1, "no second thread was made"
    assert await Place("another").run(divmod, 17, 5, timeout=30) == (3, 2)


async def test_a_place_is_free_again_when_the_hanging_call_has_returned(gate: Gate) -> None:
    place = Place("here")
    with pytest.raises(Hangs):
        await place.run(gate.pass_through, "/nfs/key", timeout=0.01)
    gate.open()
    async with asyncio.timeout(30):
        while True:
            with suppress(Hangs):
                assert await place.run(gate.pass_through, "/again", timeout=30) == "/again"
                break
            await asyncio.sleep(0.01)


async def test_calls_wait_for_each_other_within_their_own_time(gate: Gate) -> None:
    place = Place("here")
    async with asyncio.TaskGroup() as group:
        first = group.create_task(place.run(gate.pass_through, "/slow", timeout=60))
        while not gate.entered:
            await asyncio.sleep(0.001)
        with pytest.raises(Hangs, match=r"^reading /slow has been"):
            await place.run(gate.pass_through, "/second", timeout=0.01)
        others = [
            group.create_task(place.run(gate.pass_through, str(number), timeout=60)) for number in range(5)
        ]
        gate.open()
    assert first.result() == "/slow"
    assert [task.result() for task in others] == ["0", "1", "2", "3", "4"]


async def test_a_cancelled_call_still_occupies_its_place(gate: Gate) -> None:
    place = Place("here")
    task = asyncio.get_running_loop().create_task(place.run(gate.pass_through, "/nfs/key", timeout=60))
    while not gate.entered:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(Hangs, match="/nfs/key"):
        await place.run(gate.pass_through, "/another", timeout=0.05)


def test_a_thread_that_ends_late_keeps_no_result() -> None:
    """The result may be a private key."""
    has_result, may_end = threading.Event(), threading.Event()

    def held_up() -> None:
        has_result.set()
        assert may_end.wait(30)

    call = Call("here", Gate, timeout=30, done=held_up)
    call.start()
    assert has_result.wait(30)
    result = ref(call.result())
    assert result() is None
    may_end.set()


def test_doing_outside_of_a_call_does_nothing() -> None:
    doing("reading FILE")


HANGING = """
import asyncio, sys, time
from proxy.runtime.blocking import Hangs, Place

async def main():
    try:
        await Place("here").run(time.sleep, 1000, timeout=0.05)
    except Hangs:
        print("hangs", flush=True)

{run}
print("the end", flush=True)
"""


@pytest.mark.parametrize(
    "run", ["asyncio.run(main())", "import uvloop; uvloop.run(main())"], ids=["asyncio", "uvloop"]
)
def test_a_thread_that_hangs_does_not_keep_the_process_from_ending(run: str) -> None:
    command = [sys.executable, "-c", HANGING.format(run=run)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.splitlines() == ["hangs", "the end"]


@pytest.mark.parametrize("hangs", [True, False])
def test_the_process_ends_itself_where_a_thread_is_left_behind(hangs: bool) -> None:
    """The regular exit, which would run `atexit` handlers, would end the thread at any point of its code."""
    code = (
        "import atexit, threading; from proxy.runtime import blocking;"
        "atexit.register(print, 'the interpreter ends');"
        f"hangs = {hangs}; function = threading.Event().wait if hangs else int;"
        "blocking.all_of({'one': function}, timeout=0.1 if hangs else 60);"
        "print('said before'); blocking.leave(3); raise SystemExit(3)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 3
    assert done.stdout.splitlines() == ["said before"] + ["the interpreter ends"] * (not hangs)
