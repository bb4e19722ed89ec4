"""The status line that `systemctl status` shows. It is sent again after changes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from proxy.runtime import systemd

PAUSE_S: Final = 1.0
"""The minimum number of seconds between two lines.

To make a line, all gateways, clusters and sites are read. With a line for each change, 200 simultaneous
logins of sites took as much CPU for lines as for logins. That cost grows with the square of the number of
sites.
"""
SHARE: Final = 0.01
"""The maximum share of one core for lines. With very many sites, the lines are further apart."""


class StatusLine:
    """Sends `line()` to systemd after changes.

    After the first change it sends at once. Changes that follow within the pause share one line.
    """

    def __init__(self, line: Callable[[], str], *, pause: float = PAUSE_S) -> None:
        """`pause` is in seconds."""
        self._line = line
        self._pause = pause
        self._loop = asyncio.get_running_loop()
        self._not_before = self._loop.time()
        self._due: asyncio.TimerHandle | None = None
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<StatusLine {'due' if self._due else 'sent'}>"

    def changed(self) -> None:
        """Call this after a change that the line may show."""
        if self._due is None and not self._is_closed:
            self._due = self._loop.call_at(self._not_before, self._send)

    def close(self) -> None:
        """Send nothing more."""
        self._is_closed = True
        if self._due is not None:
            self._due.cancel()

    def _send(self) -> None:
        self._due = None
        began = time.perf_counter()
        systemd.notify(systemd.status(self._line()))
        took = time.perf_counter() - began
        self._not_before = self._loop.time() + max(self._pause, took / SHARE)
