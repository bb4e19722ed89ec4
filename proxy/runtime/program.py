"""Running another program: bounded in its output, and nothing of it stays behind."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

MAX_OUTPUT: Final = 4 << 20
"""`ssh -G` prints a few KiB, and what the files hold."""
_MAX_COMPLAINTS: Final = 64 << 10
_END_S: Final = 1.0
"""For what was killed to be gone. A process that hangs in its disk cannot be, and nobody waits for it."""


class Ran(NamedTuple):
    """What a program left."""

    code: int
    output: bytes
    complaints: bytes


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
    pipe, none = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=none,
        stdout=pipe,
        stderr=pipe,
        env=environment,
        start_new_session=True,
        pass_fds=inherits,
    )
    output, complaints = bytearray(), bytearray()
    try:
        async with asyncio.TaskGroup() as group:
            reading = {
                group.create_task(_keep(process.stderr, complaints, _MAX_COMPLAINTS)),
                group.create_task(_keep(process.stdout, output, most + 1)),
            }
            await process.wait()
            _kill(process)  # what it has started may have its output open
            _, open_still = await asyncio.wait(reading, timeout=_END_S)
            for task in open_still:
                task.cancel()
    finally:
        _kill(process)
        await _ended(process)
    if len(output) > most:
        raise ValueError(f"prints more than {most >> 20} MiB")
    return Ran(-1 if process.returncode is None else process.returncode, bytes(output), bytes(complaints))


async def _ended(process: asyncio.subprocess.Process) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(_END_S):
            await process.wait()


async def _keep(stream: asyncio.StreamReader | None, kept: bytearray, most: int) -> None:
    """Read `stream` up to its end; `kept` gets the first of it, `most` bytes."""
    while stream is not None and (data := await stream.read(1 << 16)):
        kept += data[: most - len(kept)]


def _kill(process: asyncio.subprocess.Process) -> None:
    with suppress(
        ProcessLookupError, PermissionError
    ):  # PermissionError: what is left runs as somebody else (sudo)
        os.killpg(process.pid, signal.SIGKILL)
