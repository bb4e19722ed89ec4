"""Whether clients need a gateway with `dial: on_demand`, and how many links it should have.

Pure: numbers and a clock.

A client needs the gateway from its arrival until its channel has ended. The gateway has as many links as it
had clients at the same time, up to `connections`, until its links are closed as unused.
"""

from __future__ import annotations


class Demand:
    """Counts the clients of one gateway: those that wait for a link and those with a channel,
    without probes.
    """

    __slots__ = ("_last", "_most")

    def __init__(self, now: float) -> None:
        """`now` is any monotonic clock, in seconds."""
        self._most = 0
        self._last = now

    def update(self, clients: int, now: float) -> None:
        """Note the present number of clients. Call it when a client comes, and at each heartbeat."""
        if clients:
            self._most = max(self._most, clients)
            self._last = now

    def links(self, connections: int) -> int:
        """How many links the gateway should have while clients need it."""
        return min(connections, max(1, self._most))

    def unused(self, now: float) -> float:
        """For how many seconds there was no client, as of the last `update`."""
        return now - self._last

    def reset(self) -> None:
        """Forget the number of clients, because the links are closed: the next client gets one link."""
        self._most = 0
