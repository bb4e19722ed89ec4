"""A channel's receive window (RFC 4254 5.2): what the peer may still send, when it is granted more, and how
much in all.

A window of W bytes carries at most W per round trip: OpenSSH's 2 MiB are 20 MB/s at 100 ms. A sender that
waits for credit gets half a window of it per half a round trip, so a window half of which goes by in less
than two round trips wants to grow. What was granted cannot be taken back; a window shrinks by granting less
than was delivered.

Credit for a large window goes out in eighths. On a long way what was sent at once arrives at once: granted by
halves, the first grant took a little more than half of it along, what was left was too little for another
one, and so half the window was never under way (135 MB/s at 100 ms with 32 MiB, that is 16 MiB per round
trip).

More than the way holds does not make a channel faster: it stands in sshd and in both kernels, and the answer
to a small request on the same link behind it. So what a window may grow to follows from the round trip, and
the less a channel has of the link's traffic, the less of that, down to a quarter (a newcomer on a long way
has little because its window is small). Alone on loopback, a download grew to 8 MiB before, and up to 2.5 MiB
of it were ahead of one answer in a hundred; 128 KiB is what sshd puts ahead of it whatever we do.
"""

from __future__ import annotations

from typing import Final

from proxy.ssh.native.wire.errors import ProtocolError

IDLE_S: Final = 10.0
"""A window that takes longer than this for its half is bigger than its traffic is worth."""

WIDEST: Final = 64 << 20
"""Bytes: 640 MB/s at a round trip of 100 ms. The budget decides how many channels can have it."""

NARROWEST: Final = 1 << 20
"""Bytes that a channel alone may have on the shortest way: half of OpenSSH's own, so half the wait behind it.
"""

FASTEST: Final = 1.25e9
"""Bytes per second of the fastest way that is reckoned with: 10 Gbit/s, more than one core of sshd seals."""

OFTEN: Final = 512 << 10
"""Bytes: credit goes out no more often than this, each is a packet, but for windows of which it is over half.
"""

TICK_S: Final = 1e-3
"""The clock of uvloop counts milliseconds: a shorter round trip is not told from none."""


def _enough(size: int) -> int:
    """Bytes to grant at once of a window of `size`."""
    return min((size + 1) // 2, max(OFTEN, size // 8))


class ReceiveWindow:
    """All in bytes and seconds. `now` is any monotonic clock."""

    __slots__ = ("_enough", "_floor", "_granted", "_owed", "_passed", "_reviewed_at", "credit", "size")

    def __init__(self, size: int, *, now: float) -> None:
        self.size = size
        """What the peer may send before it hears from us; counted in full against the daemon's budget."""
        self.credit = size
        """What it may still send."""
        self._floor = size
        self._enough = _enough(size)
        self._owed = 0
        self._reviewed_at = now
        self._granted = 0
        self._passed = 0

    def arrived(self, nbytes: int) -> None:
        """The peer has sent. Raises ProtocolError if it was not allowed to."""
        if nbytes > self.credit:
            raise ProtocolError(f"{nbytes} bytes on a channel whose window has {self.credit}")
        self.credit -= nbytes

    def taken(self, nbytes: int) -> bool:
        """The user has taken; True if it is time to `grant`."""
        self._owed += nbytes
        return self._owed >= self._enough

    @property
    def is_due(self) -> bool:
        """Whether half of it has gone by since it was last `reviewed`: grow or shrink it now."""
        return (self._granted + self._owed) * 2 >= self.size

    def is_small(self, now: float, round_trip: float) -> bool:
        """Whether half of it went by within two round trips: the way is longer under load than when it was
        measured.
        """
        return now - self._reviewed_at < 2 * max(round_trip, TICK_S)

    def ceiling(self, round_trip: float, passed: int) -> int:
        """What it may grow to, given that `passed` bytes have come on the link so far: its share of what the
        way holds.
        """
        way = min(WIDEST, max(NARROWEST, int(round_trip * FASTEST)))
        mine = self._granted + self._owed
        return max(way // 4, way * mine // max(passed - self._passed, mine, 1))

    def grow(self, nbytes: int) -> None:
        """Grant that much more with the next grant."""
        self.size += nbytes
        self._owed += nbytes
        self._enough = _enough(self.size)

    def shrink(self, now: float, ceiling: int = WIDEST, *, tight: bool) -> int:
        """Keep back some of what is owed, if the window stood idle, is far over its `ceiling`, or memory is
        `tight`.

        Returns how much. Shares go up and down, so a window is not far over its ceiling before it is twice
        that.
        """
        if not tight and self.size <= 2 * ceiling and now - self._reviewed_at < IDLE_S:
            return 0
        kept = min(self._owed, self.size // 2, self.size - self._floor)
        self.size -= kept
        self._owed -= kept
        self._enough = _enough(self.size)
        return kept

    def reviewed(self, now: float, passed: int) -> None:
        """It has the size it should have. `passed` is as for `ceiling`."""
        self._reviewed_at = now
        self._passed = passed
        self._granted = -self._owed

    def grant(self) -> int:
        """What the peer is to be told now: 0 if nothing."""
        granted, self._owed = self._owed, 0
        self.credit += granted
        self._granted += granted
        return granted
