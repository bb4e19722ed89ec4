"""How busy a link is, for the choice of a new channel's. Pure: values and a clock.

A request waits behind what sshd has read ahead of the link, and only then are sshd's packets full. So only
full packets count: a download makes a link busy, on a fast line or a slow one, and requests do not, however
many. The daemon's heartbeat samples the count.
"""

from __future__ import annotations

from typing import Final

BULK: Final = 16_000
"""Bytes of data in a packet that count as a full one's: dropbear's largest have 16,375."""

STEP: Final = 128 << 10
"""Bytes per second of full packets that make a link busier by one. So little counts because requests wait
longest beside a download over a slow line, of 5 Mbit/s for example.
"""

CROWD: Final = 256
"""Channels, however idle, that make a link busier by one: sshd looks at all of them for each packet."""


class Pace:
    """The rate between the last two samples."""

    __slots__ = ("_moved", "_since", "busy")

    def __init__(self, now: float) -> None:
        """`now` is any monotonic clock, in seconds."""
        self._since = now
        self._moved = 0
        self.busy = 0
        """In steps."""

    def sample(self, moved: int, now: float) -> None:
        """`moved` is the bytes in full packets so far."""
        elapsed = now - self._since
        if elapsed > 0:
            self.busy = int((moved - self._moved) / elapsed) // STEP
            self._moved, self._since = moved, now
