"""Runs another program, with a bound on its output, and kills it with all programs that it has started.

uvloop's own subprocesses are not used: uvloop forks, and blocks the loop until the program has begun. That
takes 4 to 20 ms in a daemon of 60 MB; `subprocess` uses vfork and takes 0.5 ms. Programs start one at a time.
When a file changes that 60 gateways use, all of them run `ssh -G`; the loop can do other work between two
starts.
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
"""Bytes. `ssh -G` prints a few KiB; long values in an ssh_config make it more."""
_MAX_ERRORS: Final = 64 << 10
_END_S: Final = 1.0
"""Seconds to wait for a process that was killed. A process that hangs in a disk driver cannot end."""
_READ: Final = 64 << 10

_starting: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock]] = WeakKeyDictionary()
"""Held while that loop starts a program, but not while the program runs, because it may hang."""


class Ran(NamedTuple):
    """How a program ended, and what it has written to standard output and standard error."""

    code: int
    output: bytes
    errors: bytes


class Process:
    """A running program, in a session of its own."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self.pid: Final = popen.pid
        self.stdout: Final = cast("IO[bytes]", popen.stdout)
        self.stderr: Final = cast("IO[bytes]", popen.stderr)
        """`stdout` and `stderr` are set only if the program was started with pipes."""
        self._popen = popen
        self._loop = asyncio.get_running_loop()
        self._pidfd = os.pidfd_open(popen.pid)
        self.exited: Final[asyncio.Future[int]] = self._loop.create_future()
        """Done with the exit code when the program ends. Programs that it has started may still run."""
        self._loop.add_reader(self._pidfd, self._reap)

    def signal(self, number: signal.Signals) -> None:
        """Signal the program and the programs it has started, except those that made their own session."""
        # PermissionError: the program runs as another user (sudo).
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
    """Start `command`. Raises OSError if there is no such program, ValueError if the name cannot be one."""
    async with _starting.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
        await asyncio.sleep(0)
        return _begun(
            lambda: subprocess.Popen(  # noqa: S603 - the operator has configured it
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
    except OSError:  # for example, no descriptor is free
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
    """Run `command`. Returns its exit code and its output, at most `most` bytes.

    Raises OSError if there is no such program, ValueError if it prints more.

    It inherits the descriptors `inherits`, and runs in its own session. When it ends, or the call is
    cancelled, that session is killed: `Match exec` may start programs that outlive a killed ssh, or keep its
    standard error open. A program that made a session of its own (a daemon) is not killed, and nothing waits
    for it. The caller sets a deadline.
    """
    process = await start(command, environment=environment, inherits=inherits)
    output, errors = _Pipe(process.stdout, most + 1), _Pipe(process.stderr, _MAX_ERRORS)
    try:
        await asyncio.wait([process.exited])
        process.signal(signal.SIGKILL)  # a program that it has started may hold the pipes open
        await asyncio.wait([output.ended, errors.ended], timeout=_END_S)
    finally:
        process.signal(signal.SIGKILL)
        output.close()
        errors.close()
        await asyncio.wait([process.exited], timeout=_END_S)
    if len(output.kept) > most:
        raise ValueError(f"prints more than {most >> 20} MiB")
    code = process.exited.result() if process.exited.done() else -1
    return Ran(code, bytes(output.kept), bytes(errors.kept))


class _Pipe:
    """Reads a pipe to its end, and keeps the first `most` bytes in `kept`."""

    def __init__(self, pipe: IO[bytes], most: int) -> None:
        self.kept = bytearray()
        self._most = most
        self._pipe = pipe
        self._loop = asyncio.get_running_loop()
        self.ended: Final[asyncio.Future[None]] = self._loop.create_future()
        os.set_blocking(pipe.fileno(), False)
        self._loop.add_reader(pipe.fileno(), self._read)

    def close(self) -> None:
        if not self.ended.done():
            self._loop.remove_reader(self._pipe.fileno())
            self._pipe.close()
            self.ended.set_result(None)

    def _read(self) -> None:
        if data := os.read(self._pipe.fileno(), _READ):
            self.kept += data[: self._most - len(self.kept)]
        else:
            self.close()
