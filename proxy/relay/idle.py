"""Finds the connections that have carried no byte for too long. There is no timer for each connection:
samples of the byte counters are compared.

So this costs the byte path nothing. A connection ends late by a quarter of the timeout at most, never early.
Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar


class Moving(Protocol):
    """The byte counters of a connection."""

    @property
    def to_cluster(self) -> int:
        """Bytes from the client to the cluster."""

    @property
    def from_cluster(self) -> int:
        """Bytes from the cluster to the client."""


M = TypeVar("M", bound=Moving)


class IdleWatch(Generic[M]):
    """Compares the byte counters of connections with those in its last sample."""

    def __init__(self) -> None:
        self._seen: dict[M, tuple[int, float]] = {}
        self._due = 0.0
        self._timeout: float | None = None

    def sample(self, connections: Iterable[M], timeout: float | None, now: float) -> list[M]:
        """The connections that have carried no byte for `timeout` seconds (None: no limit).

        `now` is the loop's clock. It may be called as often as you like: it takes eight samples per timeout,
        and one at once when the timeout changes.
        """
        if timeout != self._timeout:  # otherwise the old timeout would decide when the next sample is due
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
