"""Calls that may hang for ever, each kind in a place of its own: a file on a disk that is gone, a name whose
server does not answer.

A thread that hangs cannot be ended, only left behind. So a `Place` has one thread at most, which is made for
a call and ends with it, and while a call is overdue the place refuses the next one at once. What can be hung
up by different things has different places: one gateway's key file delays no other gateway.

They are daemon threads. At exit the interpreter waits for those of a `ThreadPoolExecutor`, which is also
`asyncio.to_thread`'s (https://docs.python.org/3/library/concurrent.futures.html#threadpoolexecutor), and
libuv for those in which uvloop's `loop.getaddrinfo` runs, which are four for the whole process.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final, Generic, TypeVar, TypeVarTuple, cast, final

K = TypeVar("K")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

FILES_S: Final = 5.0
"""Seconds after which a file counts as hanging: a busy disk is faster."""

_thread = threading.local()
_running: set[threading.Thread] = set()


class Hangs(Exception):
    """A call has not ended in time. The message says what the call was doing, and since when."""


def doing(what: str) -> None:
    """Say what the calling thread does next (`reading FILE`), for the message if it hangs.

    It does nothing in a thread that is not a call's.
    """
    call: Call[object] | None = getattr(_thread, "call", None)
    if call is not None:
        call.what = what


@final
class Call(Generic[T]):
    """A function in a thread of its own; `done` is called there when it has ended."""

    def __init__(
        self, name: str, function: Callable[[], T], *, timeout: float, done: Callable[[], None]
    ) -> None:
        self.what = name
        self.deadline = time.monotonic() + timeout
        self._since = time.gmtime()
        self._function = function
        self._done = done
        self._has_ended = False
        self._result: T | None = None
        self._failure: BaseException | None = None

    def start(self) -> None:
        thread = threading.Thread(target=self._run, name=self.what, daemon=True)
        _running.add(thread)
        thread.start()

    def _run(self) -> None:
        _thread.call = self
        try:
            self._result = self._function()
        except BaseException as exc:  # noqa: BLE001 - raised again where it is waited for
            self._failure = exc
        self._has_ended = True
        self._done()
        _running.discard(threading.current_thread())

    @property
    def is_running(self) -> bool:
        """Whether the function has not returned yet."""
        return not self._has_ended

    def hangs(self) -> Hangs:
        return Hangs(f"{self.what} has been hanging since {time.strftime('%Y-%m-%dT%H:%M:%SZ', self._since)}")

    def result(self) -> T:
        """What the function has returned, or raised. Raises Hangs if it has not ended."""
        if not self._has_ended:
            raise self.hangs()
        if self._failure is not None:
            try:
                raise self._failure
            finally:
                self._failure = None  # its traceback refers to this very frame
        return cast("T", self._result)


def leave(code: int) -> None:
    """End the process if a thread is left behind; else return, for the interpreter to end it.

    The interpreter ends such a thread by pthread_exit() when it asks for the interpreter's lock, and code in
    C++ or Rust that it is in aborts the process then (https://github.com/python/cpython/issues/87135).
    """
    if not any(thread.is_alive() for thread in _running.copy()):
        return
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed, or a full disk: there is nobody left to tell
            stream.flush()
    os._exit(code)


def all_of(functions: Mapping[K, Callable[[], T]], *, timeout: float) -> dict[K, T | Hangs]:
    """What each function returns, called all at once in threads of their own, or that it hangs; for programs
    without a loop.
    """
    ended = threading.Semaphore(0)
    calls = {
        key: Call(str(key), function, timeout=timeout, done=ended.release)
        for key, function in functions.items()
    }
    for call in calls.values():
        call.start()
    deadline = time.monotonic() + timeout
    for _ in calls:
        if not ended.acquire(timeout=max(0.0, deadline - time.monotonic())):
            break
    return {key: call.hangs() if call.is_running else call.result() for key, call in calls.items()}


class Place:
    """Where one call at a time runs. Belongs to one event loop; while none runs, it costs nothing."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._running: tuple[Call[object], asyncio.Future[None]] | None = None

    def __repr__(self) -> str:
        return f"<Place {self._name} {self._running[0].what if self._running else 'free'}>"

    async def run(self, function: Callable[[*Ts], T], *args: *Ts, timeout: float) -> T:  # noqa: ASYNC109 - as documented
        """`function(*args)` in a thread, for at most `timeout` seconds, those included in which an earlier
        call still runs.

        Raises Hangs, which names what does. The function then goes on, as it does when the caller is
        cancelled, and the place takes no other call until it ends.
        """
        deadline = time.monotonic() + timeout
        while self._running:
            other, ended = self._running
            await _wait(ended, min(deadline, other.deadline))
            if not ended.done():
                raise other.hangs()
        loop = asyncio.get_running_loop()
        ended = loop.create_future()

        def done() -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(self._end, ended)

        call = Call(self._name, lambda: function(*args), timeout=deadline - time.monotonic(), done=done)
        self._running = cast("Call[object]", call), ended
        call.start()
        await _wait(ended, deadline)
        return call.result()

    def _end(self, ended: asyncio.Future[None]) -> None:
        self._running = None
        ended.set_result(None)


async def _wait(ended: asyncio.Future[None], until: float) -> None:
    # Not `await ended`: the first caller to leave would cancel it under everybody.
    await asyncio.wait([ended], timeout=max(0.0, until - time.monotonic()))
