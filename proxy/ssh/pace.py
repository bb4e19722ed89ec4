"""How busy a link is, so that a new channel can go to the least busy one. Pure: values and a clock.

A request waits behind bytes that sshd has read and the link has not taken yet. When sshd has such bytes, its
packets are full. So only full packets count: a download makes a link busy, on a fast line or a slow one, and
requests do not, however many they are. The daemon's heartbeat samples the count.
"""

from __future__ import annotations

from typing import Final

BULK: Final = 16_000
"""A packet with at least this many bytes of data counts as full: dropbear's largest packets have 16,375."""

STEP: Final = 128 << 10
"""Bytes per second in full packets that make a link busier by one. It is this small because requests wait
longest beside a download over a slow line, for example one of 5 Mbit/s.
"""

CROWD: Final = 256
"""So many channels make a link busier by one, even idle ones: sshd checks all of them for each packet."""


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
