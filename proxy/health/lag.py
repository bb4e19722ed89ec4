"""Measures how late the event loop runs timers, and reports to systemd's watchdog that it runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from proxy.metrics import Metrics

INTERVAL: Final = 0.5
"""Seconds between beats."""


async def watch_lag(metrics: Metrics, on_beat: Callable[[], None], *, interval: float = INTERVAL) -> None:
    """Observe the lag of a timer into `metrics.loop_lag` and call `on_beat`, every `interval` seconds until
    cancelled.

    systemd's watchdog is fed from `on_beat` (sd_notify(3), WATCHDOG=1), so a loop that is blocked starves it.
    """
    while True:
        # uvloop caches loop.time() for a turn of the loop, so that it hides what ran earlier in the turn.
        due = time.monotonic() + interval
        await asyncio.sleep(interval)
        metrics.loop_lag.observe(max(0.0, time.monotonic() - due))
        on_beat()
