"""Calls that may hang for ever: reading a file from a dead disk, or resolving a name when the resolver is
silent.

Nothing can end a thread that hangs; it can only be left behind. So calls run in a `Place`. A place has at
most one thread, which is started for one call and ends with it. While that call hangs, the place refuses
further calls. Calls that hang independently of each other get different places: the key file of one gateway
does not delay another gateway.

The threads are daemon threads, because nothing may wait for them at exit. The interpreter waits for threads
of a `ThreadPoolExecutor`, which `asyncio.to_thread` uses too
(https://docs.python.org/3/library/concurrent.futures.html#threadpoolexecutor). libuv waits for those of
uvloop's `loop.getaddrinfo`; it has four for the whole process.
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
"""Seconds after which reading a file counts as hanging. A busy disk is faster than that."""

_thread = threading.local()
_running: set[threading.Thread] = set()


class Hangs(Exception):
    """A call has not ended in time. The message says what the call was doing, and since when."""


def doing(what: str) -> None:
    """Note what the calling thread does next (`reading FILE`). If it hangs, the message of `Hangs` names it.

    In a thread that does not run a `Call`, it does nothing.
    """
    call: Call[object] | None = getattr(_thread, "call", None)
    if call is not None:
        call.what = what


@final
class Call(Generic[T]):
    """A function that runs in its own thread. When it has ended, `done` is called in that thread."""

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
        except BaseException as exc:  # noqa: BLE001 - `result` raises it again
            self._failure = exc
        self._has_ended = True
        _running.discard(threading.current_thread())  # before `_done`: whoever waits for it may `leave`
        self._done()

    @property
    def is_running(self) -> bool:
        """Whether the function has not returned yet."""
        return not self._has_ended

    def hangs(self) -> Hangs:
        return Hangs(f"{self.what} has been hanging since {time.strftime('%Y-%m-%dT%H:%M:%SZ', self._since)}")

    def result(self) -> T:
        """What the function returned or raised. Raises Hangs if it has not ended. Call it once."""
        if not self._has_ended:
            raise self.hangs()
        if self._failure is not None:
            try:
                raise self._failure
            finally:
                self._failure = None  # its traceback refers to this frame: a reference cycle
        # The thread may end much later, and until then refers to this call: it must keep no private key.
        result, self._result = self._result, None
        return cast("T", result)


def leave(code: int) -> None:
    """End the process at once if a thread was left behind; otherwise return.

    Without this, the interpreter ends such a thread by pthread_exit() when the thread asks for the
    interpreter's lock. If the thread is then in C++ or Rust code, that aborts the process
    (https://github.com/python/cpython/issues/87135).
    """
    if not any(thread.is_alive() for thread in _running.copy()):
        return
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed, or the disk is full: there is nowhere to report it
            stream.flush()
    os._exit(code)


def all_of(functions: Mapping[K, Callable[[], T]], *, timeout: float) -> dict[K, T | Hangs]:
    """Call all functions at once, each in its own thread. Returns their results, or Hangs for one that hangs.

    For programs without an event loop.
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
    """Runs one call at a time, for one event loop. While no call runs, it costs nothing."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._running: tuple[Call[object], asyncio.Future[None]] | None = None

    def __repr__(self) -> str:
        return f"<Place {self._name} {self._running[0].what if self._running else 'free'}>"

    async def run(self, function: Callable[[*Ts], T], *args: *Ts, timeout: float) -> T:  # noqa: ASYNC109 - it does not cancel
        """Run `function(*args)` in a thread, and wait for at most `timeout` seconds.

        That includes the wait for an earlier call. Raises Hangs, which names the call that hangs. After that,
        or if the caller is cancelled, the function runs on, and the place starts no other until it ends.
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
            with suppress(RuntimeError):  # the loop is closed: nobody waits for the result
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
    # Not `await ended`: if the first caller is cancelled, that would cancel the future for all.
    await asyncio.wait([ended], timeout=max(0.0, until - time.monotonic()))
