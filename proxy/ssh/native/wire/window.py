"""A channel's receive window (RFC 4254 5.2): what the peer may send, and when we grant it more.

**When it grows.** A window of W bytes carries at most W per round trip: OpenSSH's 2 MiB make 20 MB/s at
100 ms. A sender that waits for credit uses half a window in at most two round trips: such a window grows.
What was granted cannot be taken back. So a window shrinks by granting less than was delivered.

**How often credit is granted.** A large window is granted in eighths. With halves, half of the window was
never under way: data that was sent together arrives together, so the first grant covered a little more than
half of it, and the rest was too little for a second grant. That gave 135 MB/s at 100 ms with 32 MiB, which is
16 MiB per round trip.

**How large it gets.** More than the way holds does not make a channel faster. The surplus waits in sshd and
in both kernels, and the answer to a small request on the same link waits behind it. So the ceiling follows
from the round trip and from the channel's share of the link's traffic. It is at least a quarter of what the
way holds, because a new channel has a small share only for its small window. Without a ceiling, one download
on loopback grew to 8 MiB, and one answer in a hundred waited behind up to 2.5 MiB of it. sshd alone puts
128 KiB ahead of an answer.
"""

from __future__ import annotations

from typing import Final

from proxy.ssh.native.wire.errors import ProtocolError

IDLE_S: Final = 10.0
"""A window that needs longer than this for its first half is larger than its traffic needs."""

WIDEST: Final = 64 << 20
"""Bytes: 640 MB/s at a round trip of 100 ms. The budget decides how many channels can have so much."""

NARROWEST: Final = 1 << 20
"""Bytes that a channel alone may have on the shortest way.

It is half of OpenSSH's window, so other channels wait half as long behind it.
"""

FASTEST: Final = 1.25e9
"""Bytes per second of the fastest way that windows are sized for: 10 Gbit/s. One core of sshd seals less."""

OFTEN: Final = 512 << 10
"""Bytes: each grant is a packet, so none is smaller than this, except for windows of less than twice as much.
"""

TICK_S: Final = 1e-3
"""uvloop's clock counts milliseconds: a shorter round trip cannot be told from zero."""


def _enough(size: int) -> int:
    """How many bytes must be owed before they are granted, for a window of `size` bytes."""
    return min((size + 1) // 2, max(OFTEN, size // 8))


class ReceiveWindow:
    """What the peer may send on one channel. Sizes are in bytes; `now` is any monotonic clock in seconds."""

    __slots__ = ("_enough", "_floor", "_granted", "_owed", "_passed", "_reviewed_at", "credit", "size")

    def __init__(self, size: int, *, now: float) -> None:
        self.size = size
        """The most that the peer may send without a new grant; all of it counts against the daemon's budget.
        """
        self.credit = size
        """What the peer may still send."""
        self._floor = size
        self._enough = _enough(size)
        self._owed = 0
        self._reviewed_at = now
        self._granted = 0
        self._passed = 0

    def received(self, nbytes: int) -> None:
        """Count `nbytes` from the peer. Raises ProtocolError if its credit did not cover them."""
        if nbytes > self.credit:
            raise ProtocolError(f"{nbytes} bytes on a channel whose window has {self.credit}")
        self.credit -= nbytes

    def consumed(self, nbytes: int) -> bool:
        """Count `nbytes` that the relay has consumed; True if it is time to `grant`."""
        self._owed += nbytes
        return self._owed >= self._enough

    @property
    def is_due(self) -> bool:
        """Whether half of the window was used since it was last `reviewed`: time to let it grow or shrink."""
        return (self._granted + self._owed) * 2 >= self.size

    def is_small(self, now: float, round_trip: float) -> bool:
        """Whether half of the window was used within two round trips: the peer waits for credit."""
        return now - self._reviewed_at < 2 * max(round_trip, TICK_S)

    def ceiling(self, round_trip: float, passed: int) -> int:
        """The size up to which the window may grow: its share of what the way holds.

        `passed` is the number of bytes that have come on the link so far.
        """
        way = min(WIDEST, max(NARROWEST, int(round_trip * FASTEST)))
        mine = self._granted + self._owed
        return max(way // 4, way * mine // max(passed - self._passed, mine, 1))

    def grow(self, nbytes: int) -> None:
        """Add `nbytes` to the window; the next grant contains them."""
        self.size += nbytes
        self._owed += nbytes
        self._enough = _enough(self.size)

    def shrink(self, now: float, ceiling: int = WIDEST, *, tight: bool) -> int:
        """Shrink an idle or much too large window, or any when memory is `tight`; returns by how many bytes.

        It keeps back a part of what is owed. A window's share of the traffic goes up and down, so it counts
        as too large only at twice its `ceiling`.
        """
        if not tight and self.size <= 2 * ceiling and now - self._reviewed_at < IDLE_S:
            return 0
        kept = min(self._owed, self.size // 2, self.size - self._floor)
        self.size -= kept
        self._owed -= kept
        self._enough = _enough(self.size)
        return kept

    def reviewed(self, now: float, passed: int) -> None:
        """Start the next review period. `passed` is as for `ceiling`."""
        self._reviewed_at = now
        self._passed = passed
        self._granted = -self._owed

    def grant(self) -> int:
        """Grant all that is owed: returns the bytes for a WINDOW_ADJUST, or 0."""
        granted, self._owed = self._owed, 0
        self.credit += granted
        self._granted += granted
        return granted
