"""Running another program: its output is bounded, and it is killed with all that it has started.

uvloop's own way is not used: it forks, and blocks until the program has begun, which takes 4 to 20 ms in a
daemon of 60 MB. `subprocess` takes 0.5 ms (vfork). Programs start one at a time: when a file that 60 gateways
use has changed, all of them run `ssh -G`, and the loop does its other work between two starts.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import IO, Final, NamedTuple, cast
from weakref import WeakKeyDictionary

MAX_OUTPUT: Final = 4 << 20
"""`ssh -G` prints a few KiB, and what the files hold."""
_MAX_COMPLAINTS: Final = 64 << 10
_END_S: Final = 1.0
"""Seconds to wait for a process that was killed. One that hangs in a disk's driver cannot end."""
_READ: Final = 64 << 10

_starting: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock]] = WeakKeyDictionary()
"""Held while a program is started on that loop. Not while it runs: it may hang."""


class Ran(NamedTuple):
    """How a program has ended, and what it has printed."""

    code: int
    output: bytes
    complaints: bytes


class Process:
    """A program that runs, with a session of its own."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self.pid: Final = popen.pid
        self.stdout: Final = cast("IO[bytes]", popen.stdout)
        self.stderr: Final = cast("IO[bytes]", popen.stderr)
        """If it was started with pipes."""
        self._popen = popen
        self._loop = asyncio.get_running_loop()
        self._pidfd = os.pidfd_open(popen.pid)
        self.exited: Final[asyncio.Future[int]] = self._loop.create_future()
        """Its exit code. What it has started may go on."""
        self._loop.add_reader(self._pidfd, self._reap)

    def signal(self, number: signal.Signals) -> None:
        """Signal the program and what it has started, but for what has made a session of its own."""
        # PermissionError: it runs as somebody else (sudo).
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def _reap(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self.exited.set_result(self._popen.wait())


async def start(
    command: Sequence[str],
    *,
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
    environment: Mapping[str, str] | None = None,
    inherits: Collection[int] = (),
) -> Process:
    """Begin `command`. Raises OSError if there is no such program, ValueError if there can be none."""
    async with _starting.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
        await asyncio.sleep(0)
        return _begun(
            lambda: subprocess.Popen(  # noqa: S603 - what the operator wants run
                command,
                bufsize=0,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                env=environment,
                start_new_session=True,
                pass_fds=inherits,
            )
        )


def _begun(begin: Callable[[], subprocess.Popen[bytes]]) -> Process:
    popen = begin()
    try:
        return Process(popen)
    except OSError:  # no descriptor is left
        with popen:
            popen.kill()
        raise


async def run(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    inherits: Collection[int] = (),
    most: int = MAX_OUTPUT,
) -> Ran:
    """What `command` prints, at `most` so many bytes.

    Raises OSError if there is no such program, ValueError if it prints more.

    It has the descriptors `inherits`, and a session of its own, which ends with it, or with the call: `Match
    exec` starts programs that would outlive an ssh that is killed, or keep its standard error open. One that
    has made a session for itself (a daemon) goes on; what it has open is not waited for. The caller has a
    deadline.
    """
    process = await start(command, environment=environment, inherits=inherits)
    output, complaints = _Pipe(process.stdout, most + 1), _Pipe(process.stderr, _MAX_COMPLAINTS)
    try:
        await asyncio.wait([process.exited])
        process.signal(signal.SIGKILL)  # what it has started may have its output open
        await asyncio.wait([output.ended, complaints.ended], timeout=_END_S)
    finally:
        process.signal(signal.SIGKILL)
        output.close()
        complaints.close()
        await asyncio.wait([process.exited], timeout=_END_S)
    if len(output.kept) > most:
        raise ValueError(f"prints more than {most >> 20} MiB")
    code = process.exited.result() if process.exited.done() else -1
    return Ran(code, bytes(output.kept), bytes(complaints.kept))


class _Pipe:
    """Reads a pipe up to its end. `kept` gets the first of it, `most` bytes."""

    def __init__(self, pipe: IO[bytes], most: int) -> None:
        self.kept = bytearray()
        self._most = most
        self._pipe = pipe
        self._loop = asyncio.get_running_loop()
        self.ended: Final[asyncio.Future[None]] = self._loop.create_future()
        os.set_blocking(pipe.fileno(), False)
        self._loop.add_reader(pipe.fileno(), self._read)

    def close(self) -> None:
        """Idempotent."""
        if not self.ended.done():
            self._loop.remove_reader(self._pipe.fileno())
            self._pipe.close()
            self.ended.set_result(None)

    def _read(self) -> None:
        if data := os.read(self._pipe.fileno(), _READ):
            self.kept += data[: self._most - len(self.kept)]
        else:
            self.close()
