"""How busy a link is, for the choice of a new channel's. Pure: values and a clock.

What a request waits behind is what sshd has read ahead of the link, and only then its packets are full. So
they alone count: a download does, on a fast line or a slow one, and requests do not, however many. Counted
for each full packet, and looked at by the daemon's heartbeat.
"""

from __future__ import annotations

from typing import Final

BULK: Final = 16_000
"""Bytes of data in a packet that count as a full one's: dropbear's largest have 16,375."""

STEP: Final = 128 << 10
"""Bytes per second of full packets that make a link busier by one: beside a download over a line of 5 Mbit/s
requests wait longer than beside any other.
"""

CROWD: Final = 256
"""Channels that make a link busier by one, however idle: sshd goes through all of them for each packet."""


class Pace:
    """The rate between the last two looks."""

    __slots__ = ("_moved", "_since", "busy")

    def __init__(self, now: float) -> None:
        """`now` is any monotonic clock, in seconds."""
        self._since = now
        self._moved = 0
        self.busy = 0
        """In steps."""

    def sample(self, moved: int, now: float) -> None:
        """`moved` is how many bytes there have been in full packets so far."""
        elapsed = now - self._since
        if elapsed > 0:
            self.busy = int((moved - self._moved) / elapsed) // STEP
            self._moved, self._since = moved, now
