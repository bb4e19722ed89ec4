"""Measures how late the event loop runs its timers, and triggers the message to systemd's watchdog."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from proxy.metrics import Metrics

INTERVAL: Final = 0.5
"""Seconds between two measurements."""


async def watch_lag(metrics: Metrics, on_beat: Callable[[], None], *, interval: float = INTERVAL) -> None:
    """Every `interval` seconds until cancelled: record in `metrics.loop_lag` how late a timer ran, and call
    `on_beat`.

    `on_beat` sends WATCHDOG=1 to systemd (sd_notify(3)). If the event loop is blocked, systemd gets no
    message and restarts the daemon.
    """
    while True:
        # Not loop.time(): uvloop reads the clock once in each turn of the loop, which hides a slow callback.
        due = time.monotonic() + interval
        await asyncio.sleep(interval)
        metrics.loop_lag.observe(max(0.0, time.monotonic() - due))
        on_beat()
