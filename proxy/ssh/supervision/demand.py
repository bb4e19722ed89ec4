"""Whether a gateway with `dial: on_demand` is needed, and how many links that takes.

Pure: numbers and a clock.

A client needs it from its arrival until its channel has ended. The gateway has as many links as it has had
clients at a time, up to `connections`, until it rests.
"""

from __future__ import annotations


class Demand:
    """The clients of one gateway: those that wait for a link, and those with a channel. Probes are none."""

    __slots__ = ("_last", "_most")

    def __init__(self, now: float) -> None:
        """`now` is any monotonic clock, in seconds."""
        self._most = 0
        self._last = now

    def look(self, clients: int, now: float) -> None:
        """There are `clients` now. Call it when one comes, and again and again."""
        if clients:
            self._most = max(self._most, clients)
            self._last = now

    def links(self, connections: int) -> int:
        """How many links it is to have while it is needed."""
        return min(connections, max(1, self._most))

    def unused(self, now: float) -> float:
        """For how many seconds no client has been there, as of the last `look`."""
        return now - self._last

    def rest(self) -> None:
        """The links are closed: the next client begins with one."""
        self._most = 0
