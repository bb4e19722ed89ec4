"""Which connections have carried nothing for too long, without a timer for each: their byte counters are
compared now and then.

The byte path pays nothing for it. A connection ends late by a quarter of the timeout at most, never early.
Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar


class Moving(Protocol):
    """What this module needs of a connection."""

    to_cluster: int
    from_cluster: int


M = TypeVar("M", bound=Moving)


class IdleWatch(Generic[M]):
    """Compares the byte counters of connections with those of its last sample."""

    def __init__(self) -> None:
        self._seen: dict[M, tuple[int, float]] = {}
        self._due = 0.0
        self._timeout: float | None = None

    def sample(self, connections: Iterable[M], timeout: float | None, now: float) -> list[M]:
        """The connections that have moved no byte for `timeout` seconds (None: no limit).

        `now` is the loop's clock. Call it at any rate: it takes eight samples per timeout, and one at once
        when the timeout changes.
        """
        if timeout != self._timeout:  # or the next sample would be due by the old timeout
            self._timeout = timeout
            self._due = 0.0
        if timeout is None:
            self._seen = {}
            return []
        if now < self._due:
            return []
        self._due = now + timeout / 8
        before, self._seen = self._seen, {}
        for connection in connections:
            moved = connection.to_cluster + connection.from_cluster
            last, since = before.get(connection, (-1, now))
            self._seen[connection] = (moved, since if moved == last else now)
        return [connection for connection, (_, since) in self._seen.items() if now - since >= timeout]
