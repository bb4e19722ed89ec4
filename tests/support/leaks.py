"""Finds what a test leaves behind: open files, threads, child processes, tasks, unhandled errors of its loop.

A descriptor that is open after the test and was not open before is a leak; a leaked transport shows as its
socket.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvloop

from tests.support.processes import children, command

GRACE = 5.0
"""Seconds to wait for what is still closing: a TLS transport waits for its peer, a thread needs time to end,
and a server of a fixture that lives on closes its side of a connection.
"""
LOOKS = 50
"""How often to look at least. If a busy machine stops us for `GRACE` seconds, it stops those, too."""

Context = dict[str, object]


def open_files() -> dict[int, str]:
    """The open descriptors of this process, and what they are; without those of event loops (epoll, eventfd)
    and of the kernel's other notifiers.
    """
    found = {}
    # Each test asks a few times, and pathlib takes three times as long.
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        try:
            target = os.readlink(f"/proc/self/fd/{name}")  # noqa: PTH115
        except OSError:  # the descriptor that listed the folder, closed by now
            continue
        if not target.startswith("anon_inode:"):
            found[int(name)] = target
    return found


def describe(fd: int, target: str) -> str:
    """`fd 12: TCP 127.0.0.1:1234 -> 127.0.0.1:22`, or the path."""
    inode = target.removeprefix("socket:[").removesuffix("]")
    for family in ("tcp", "tcp6", "unix"):
        for row in Path(f"/proc/net/{family}").read_text().splitlines():
            fields = row.split()
            if family == "unix" and len(fields) > 6 and fields[6] == inode:
                return f"fd {fd}: unix socket {' '.join(fields[7:]) or '(unnamed)'}"
            if family != "unix" and len(fields) > 9 and fields[9] == inode:
                local, peer = (
                    f"{address.partition(':')[0]}:{int(address.partition(':')[2], 16)}"
                    for address in fields[1:3]
                )
                return f"fd {fd}: {family} socket {local} -> {peer} (addresses as /proc/net/tcp has them)"
    return f"fd {fd}: {target}"


class Leaks:
    """Compares what is open now with what was open when this object was made."""

    def __init__(self) -> None:
        gc.collect()
        self._files = open_files()
        self._threads = set(threading.enumerate())
        self._children = children(os.getpid())

    def files(self) -> dict[int, str]:
        """The descriptors that are leaked, and what they are."""
        gc.collect()
        return {fd: target for fd, target in open_files().items() if self._files.get(fd) != target}

    def _left(self) -> list[str]:
        return [
            *(describe(fd, target) for fd, target in self.files().items()),
            *(f"thread {thread.name}" for thread in set(threading.enumerate()) - self._threads),
            *(f"child process {pid}: {command(pid)}" for pid in children(os.getpid()) - self._children),
        ]

    def everything(self) -> list[str]:
        """The descriptors, threads and child processes that are still there after `GRACE` seconds."""
        deadline, looks = time.monotonic() + GRACE, 0
        while (left := self._left()) and (time.monotonic() < deadline or looks < LOOKS):
            looks += 1
            time.sleep(0.01)
        return left


class Uvloop(uvloop.Loop):
    """uvloop's loop, with a `close` that always returns.

    uvloop's own `close` never returns if its warning about an open handle is raised as an error.
    """

    def close(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # LoopLeaks has already reported the handle
            super().close()


class LoopLeaks:
    """Finds leaks of the running loop: its tasks, the sockets of its transports, and unhandled errors."""

    def __init__(self) -> None:
        self._leaks = Leaks()
        self._errors: list[str] = []
        self._own = asyncio.all_tasks()
        asyncio.get_running_loop().set_exception_handler(self._unhandled)

    def _unhandled(self, _loop: asyncio.AbstractEventLoop, context: Context) -> None:
        self._errors.append(
            f"unhandled in the event loop: {context.get('message')}: {context.get('exception')!r}"
        )

    def _left(self) -> list[str]:
        tasks = asyncio.all_tasks() - self._own - {asyncio.current_task()}
        # uvloop makes a socket pair for signals at each run and has no attribute for it, so ask the garbage
        # collector.
        own = {
            end.fileno()
            for end in gc.get_referents(asyncio.get_running_loop())
            if isinstance(end, socket.socket)
        }
        # Sockets only: libuv keeps /dev/null open until the loop is closed. `Leaks` checks files after that.
        transports = {
            fd: target for fd, target in self._leaks.files().items() if "[" in target and fd not in own
        }
        return [
            *(describe(fd, target) for fd, target in transports.items()),
            *(f"task {task.get_name()}: {task.get_coro()}" for task in tasks),
        ]

    async def everything(self) -> list[str]:
        """What is still open or running after `GRACE` seconds, and all unhandled errors."""
        deadline, looks = time.monotonic() + GRACE, 0
        while (left := self._left()) and (time.monotonic() < deadline or looks < LOOKS):
            looks += 1
            await asyncio.sleep(0.01)
        return self._errors + left


@contextmanager
def quick_collections() -> Iterator[None]:
    """Exclude all objects that exist now from later calls of `gc.collect()`.

    A call then takes microseconds, so each test can make some.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
