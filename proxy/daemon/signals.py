"""Signals: SIGTERM and SIGINT stop the daemon, a second one without waiting for clients; SIGHUP reloads.

The handlers are set with Python's `signal.signal`, not with the loop's `add_signal_handler`. The loop removes
its handlers when it is closed: a second SIGTERM would then kill a process that has stopped in order and is
about to exit with code 0.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from proxy.daemon.daemon import Daemon
from proxy.daemon.orders import Controller
from proxy.errors import ProxyError
from proxy.runtime.tasks import Tasks


async def run_until_stopped(daemon: Daemon, on_started: Callable[[], None] = lambda: None) -> None:
    """Start `daemon`, call `on_started`, serve until a signal, and stop it.

    Returns when everything is closed. From then on the process ignores these signals: it only has to exit.
    """
    loop = asyncio.get_running_loop()
    tasks = Tasks("signals")
    controller = Controller(daemon)
    stop = asyncio.Event()

    def on_stop() -> None:
        if stop.is_set():
            daemon.hurry()
        stop.set()

    handlers = {
        signal.SIGTERM: on_stop,
        signal.SIGINT: on_stop,
        signal.SIGHUP: lambda: tasks.spawn(_reload(controller), name="reload"),
    }

    def on_signal(number: int, _frame: FrameType | None) -> None:
        # The signal may interrupt any code, so this only schedules the handler, and wakes the loop.
        loop.call_soon_threadsafe(handlers[signal.Signals(number)])

    for number in handlers:
        signal.signal(number, on_signal)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, handlers)
    try:
        starting = tasks.spawn(_start(daemon, controller), name="start")
        stopped = tasks.spawn(stop.wait(), name="wait for a signal")
        await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.wait({starting})
        elif failure := starting.result():
            await daemon.stop(timeout=0)
            raise failure
        else:
            on_started()
            tasks.keep(controller.watch_files, name="watch files")
            await stopped
        await daemon.stop()
    finally:
        for number in handlers:
            signal.signal(number, signal.SIG_IGN)
        await tasks.close()


async def _start(daemon: Daemon, controller: Controller) -> ProxyError | None:
    try:
        await daemon.start(controller)
    except ProxyError as exc:
        return exc
    return None


async def _reload(controller: Controller) -> None:
    with suppress(ProxyError):  # `reload` has logged it, with every problem of the file
        await controller.reload()
