"""How much moves on a link, for the choice of a new channel's. Pure: values and a clock.

Counted by whoever reads and writes the link's socket anyway, and looked at when a channel is opened: no packet pays for it.
The channels of a download and of an idle watch are one each, so their number says little about who will wait for whom.
"""

from __future__ import annotations

from typing import Final

LOOK_S: Final = 0.25
"""Opens within this time see the same figure: a rate over less is noise."""

CHANNEL: Final = 1 << 20
"""Bytes per second that weigh as much as one more channel: a link that carries 500 MiB/s gets the 501st of the idle ones."""


class Pace:
    """The mean rate since it was last looked at."""

    __slots__ = ("_moved", "_since", "_weight")

    def __init__(self, now: float) -> None:
        """`now` is any monotonic clock, in seconds."""
        self._since = now
        self._moved = 0
        self._weight = 0

    def weight(self, moved: int, now: float) -> int:
        """What the traffic weighs, in channels; `moved` is how many bytes there have been so far."""
        elapsed = now - self._since
        if elapsed >= LOOK_S:
            self._weight = int((moved - self._moved) / elapsed / CHANNEL)
            self._moved, self._since = moved, now
        return self._weight
