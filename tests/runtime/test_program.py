"""Other programs: their output is bounded, and none of their processes is left behind."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from proxy.runtime import program
from tests.support.ports import free_port
from tests.support.processes import command


@pytest.mark.both_loops
async def test_run_returns_exit_code_output_and_errors() -> None:
    ran = await program.run(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert ran == (3, b"out\n", b"err\n")
    assert (await program.run(["sh", "-c", "kill -TERM $$"])).code == -signal.SIGTERM
    assert (await program.run(["sh", "-c", "echo $HERE"], environment={"HERE": "there"})).output == b"there\n"


@pytest.mark.parametrize("output", ["", ">/dev/null", "2>/dev/null", ">/dev/null 2>&1"])
async def test_children_of_the_program_end_with_it(output: str) -> None:
    """asyncio's own subprocesses wait for the end of the output (cpython#119710), so until the caller's
    deadline.
    """
    pause = f"sleep 10{free_port()}"
    async with asyncio.timeout(30):
        assert (await program.run(["sh", "-c", f"{pause} {output} & echo out"])).output == b"out\n"
        while pause in _commands():
            await asyncio.sleep(0.01)


async def test_run_does_not_wait_for_a_daemon_that_the_program_has_started(tmp_path: Path) -> None:
    """A `Match exec` may start a daemon that keeps our pipe as its standard error; ssh(1) does not wait,
    either.
    """
    pause = f"sleep 10{free_port()}"
    # The shell waits until the daemon has its own session; without that, it would be killed with the shell.
    os.mkfifo(ready := tmp_path / "ready")
    script = f"setsid sh -c 'echo yes >{ready}; exec {pause}' & read line <{ready}; echo out; echo err >&2"
    async with asyncio.timeout(60):
        ran = await program.run(["sh", "-c", script])
        assert ran == (0, b"out\n", b"err\n")
        while not (pids := _of(pause)):
            await asyncio.sleep(0.01)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


class Turns:
    """Counts the turns of the loop, and in which of them programs are started."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0
        self.starts: list[int] = []
        self._popen = subprocess.Popen
        self._ticking = self._tick()
        monkeypatch.setattr(subprocess, "Popen", self._start)

    def _tick(self) -> asyncio.Handle:
        self.now += 1
        self._ticking = asyncio.get_running_loop().call_soon(self._tick)
        return self._ticking

    def _start(self, *args: Any, **named: Any) -> subprocess.Popen[bytes]:
        self.starts.append(self.now)
        return self._popen(*args, **named)

    def stop(self) -> None:
        self._ticking.cancel()


@pytest.mark.both_loops
async def test_programs_start_one_by_one_and_one_that_hangs_delays_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns = Turns(monkeypatch)
    loop = asyncio.get_running_loop()
    try:
        hanging = [loop.create_task(program.run(["sleep", "1000"])) for _ in range(10)]
        async with asyncio.timeout(60):
            ran = await asyncio.gather(*(program.run(["echo", str(number)]) for number in range(10)))
    finally:
        turns.stop()
        for task in hanging:
            task.cancel()
        ended = await asyncio.gather(*hanging, return_exceptions=True)
    assert [one.output for one in ran] == [b"%d\n" % number for number in range(10)]
    assert {type(one) for one in ended} == {asyncio.CancelledError}
    assert len(turns.starts) == 20
    assert len(set(turns.starts)) == 20, "the loop runs other work between two starts"


@pytest.mark.both_loops
async def test_without_free_descriptors_the_program_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    pause = f"sleep 10{free_port()}"

    def none_left(_: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "pidfd_open", none_left)
    with pytest.raises(OSError, match="Too many open files"):
        await program.run(pause.split())
    assert not _of(pause), "the program is killed and reaped"


@pytest.mark.both_loops
async def test_a_missing_program_raises_file_not_found() -> None:
    with pytest.raises(FileNotFoundError):
        await program.run(["/no/such/program"])


@pytest.mark.both_loops
async def test_a_program_that_prints_too_much_is_an_error() -> None:
    with pytest.raises(ValueError, match="prints more than 1 MiB"):
        await program.run([sys.executable, "-c", "print('x' * (3 << 20))"], most=1 << 20)


@pytest.mark.both_loops
@pytest.mark.parametrize("script", ["PAUSE & PAUSE", "trap '' TERM HUP INT; PAUSE & wait"])
async def test_a_timeout_kills_the_program_and_its_children(script: str) -> None:
    pause = f"sleep 10{free_port()}"
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await program.run(["sh", "-c", script.replace("PAUSE", pause)])
    async with asyncio.timeout(30):
        while pause in _commands():
            await asyncio.sleep(0.01)


def _of(pause: str) -> list[int]:
    """The processes with exactly this command."""
    return [int(pid.name) for pid in Path("/proc").glob("[0-9]*") if command(int(pid.name)) == pause]


def _commands() -> str:
    return "\n".join(command(int(pid.name)) for pid in Path("/proc").glob("[0-9]*"))
