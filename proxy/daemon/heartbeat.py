"""What the daemon does about twice a second. Idle sites are left out: there may be ten thousand of them.

A part that fails stops neither the other parts nor the messages to systemd's watchdog.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import structlog

log = structlog.get_logger("kubemux.daemon")

Part = tuple[str, Callable[[], object]]
"""A name for the log, and the function to call."""


class Heartbeat:
    """Calls each of `parts()` in order; logs a part that fails, once until it has succeeded again."""

    def __init__(self, parts: Callable[[], Iterable[Part]]) -> None:
        self._parts = parts
        self._failing: set[str] = set()

    def beat(self) -> None:
        """Call every part once. Never raises."""
        failed = set()
        for name, call in self._parts():
            try:
                call()
            except Exception as exc:
                failed.add(name)
                if name not in self._failing:
                    log.error(
                        "heartbeat failed", part=name, hint="this is a bug: please report it", exc_info=exc
                    )
        self._failing = failed
