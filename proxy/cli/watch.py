"""`kubemux status --watch`: shows the tables on the whole screen until Ctrl-C, also after a resize."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from typing import Final

from rich.console import Console, ConsoleDimensions, Group, RenderableType
from rich.control import Control
from rich.screen import Screen
from rich.text import Text

from proxy.cli.grid import seconds_text
from proxy.cli.tables import chosen, render
from proxy.errors import AdminError, UnknownName
from proxy.runtime.text import for_terminal
from proxy.snapshots import DaemonSnapshot

REFRESH_SECONDS: Final = 1.0
STALE_SECONDS: Final = 3.0
"""Data older than this are marked: at least two answers are missing."""


class _Seen:
    """The last snapshot, and the error since then, if any."""

    def __init__(self) -> None:
        self.snapshot: DaemonSnapshot | None = None
        self.at = 0.0
        """When the snapshot arrived, on the monotonic clock."""
        self.trouble = ""
        self.news = asyncio.Event()
        self.is_over = False

    def stop(self) -> None:
        """End the watch."""
        self.is_over = True
        self.news.set()


async def watch(
    ask: Callable[[], Awaitable[DaemonSnapshot]], console: Console, names: Collection[str]
) -> None:
    """Draw the snapshot that `ask` returns, every second, until a signal arrives.

    If the daemon does not answer, the clock and the age of the data are still updated. After a resize the
    screen is drawn at once. Raises UnknownName, before anything is drawn, if the daemon does not have one of
    `names`.
    """
    seen = _Seen()
    await _fetch(ask, seen)
    if seen.snapshot is not None:
        chosen(seen.snapshot, names)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGWINCH, seen.news.set)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, seen.stop)  # so that rich restores the screen and the cursor
    try:
        with console.screen(hide_cursor=True):
            async with asyncio.TaskGroup() as group:
                asking = group.create_task(_poll(ask, seen))
                await _draw_until_stopped(seen, console, names)
                asking.cancel()
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None


async def _fetch(ask: Callable[[], Awaitable[DaemonSnapshot]], seen: _Seen) -> None:
    try:
        seen.snapshot = await ask()
    except AdminError as error:
        seen.trouble = str(error)
    else:
        seen.at, seen.trouble = time.monotonic(), ""


async def _poll(ask: Callable[[], Awaitable[DaemonSnapshot]], seen: _Seen) -> None:
    while True:
        await asyncio.sleep(REFRESH_SECONDS)
        await _fetch(ask, seen)
        seen.news.set()


async def _draw_until_stopped(seen: _Seen, console: Console, names: Collection[str]) -> None:
    while not seen.is_over:
        # rich would use $COLUMNS and $LINES, which do not change.
        size = os.get_terminal_size(console.file.fileno())
        # A terminal that does not know its size says 0.
        console.size = ConsoleDimensions(size.columns or 80, size.lines or 24)
        frame = Screen(_frame(seen, names, width=console.width, height=console.height))
        console.print(Control.home(), frame, sep="", end="")  # over the old frame: clearing would flicker
        with suppress(TimeoutError):
            async with asyncio.timeout(REFRESH_SECONDS):
                await seen.news.wait()
        seen.news.clear()


def _frame(seen: _Seen, names: Collection[str], *, width: int, height: int) -> RenderableType:
    top = Text(time.strftime("%H:%M:%S"), no_wrap=True, overflow="ellipsis")
    if seen.snapshot is None:
        return Group(top, Text(for_terminal(f"waiting for the daemon\n{seen.trouble}"), "yellow"))
    age = time.monotonic() - seen.at
    top.append(f", {seconds_text(age)} old", "bold yellow" if age > STALE_SECONDS else "dim")
    if seen.trouble:
        top.append(for_terminal(f"; waiting for the daemon: {seen.trouble}".replace("\n", " ")), "yellow")
    try:
        return Group(top, render(seen.snapshot, now=time.time(), width=width, height=height - 1, names=names))
    except UnknownName as error:  # a reload has removed it
        return Group(top, Text(for_terminal(f"{error}\n{error.hint}"), "yellow"))
