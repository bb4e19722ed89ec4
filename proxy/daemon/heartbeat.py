"""What the daemon does about twice a second.

One part that fails keeps neither the others nor systemd's watchdog waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import structlog

log = structlog.get_logger("kubemux.daemon")

Part = tuple[str, Callable[[], object]]
"""The name for the log, and the function."""


class Heartbeat:
    """Calls each of `parts()`, in this order; a failure is logged when it is news."""

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
