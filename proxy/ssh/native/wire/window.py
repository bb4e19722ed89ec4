"""The receive window of a channel (RFC 4254 5.2): how much the peer may send, and when we grant it more.

**When it grows.** A window of W bytes allows at most W bytes per round trip: OpenSSH's 2 MiB allow 20 MB/s at
100 ms. A sender that waits for credit uses half a window in at most two round trips. Then the window grows.
Credit cannot be revoked, so a window shrinks by granting less than was delivered.

**How often credit is granted.** The credit of a large window is granted in eighths of the window. With
halves, half of the window was never used: data that was sent together arrives together, so the first grant
was a little more than half of the window, and the rest was too little for a second grant. A window of 32 MiB
then gave 135 MB/s at 100 ms, which is 16 MiB per round trip.

**How large it gets.** The network path can carry a certain number of bytes at a time (bandwidth times round
trip). A window larger than that does not make a channel faster: the surplus waits in sshd and in both
kernels, and the answer to a small request on the same link waits behind it. So the round trip, and the
channel's share of the link's traffic, give the ceiling. It is at least a quarter of what the path can carry,
because a new channel has a small share only because its window is small. Without a ceiling, the window of one
download on loopback grew to 8 MiB, and one answer in a hundred waited behind up to 2.5 MiB of it. sshd alone
puts 128 KiB ahead of an answer.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from proxy.ssh.native.wire.errors import ProtocolError

IDLE_S: Final = 10.0
"""A window that needs longer than this for its first half is larger than its traffic needs."""

WIDEST: Final = 64 << 20
"""Bytes: enough for 640 MB/s at 100 ms of round trip. The budget limits how many channels get so much."""

NARROWEST: Final = 1 << 20
"""Bytes that a channel may have that is alone on its link, if the round trip is short.

It is half of OpenSSH's window, so other channels wait half as long behind it.
"""

FASTEST: Final = 1.25e9
"""Bytes per second of the fastest path that windows are made for: 10 Gbit/s. One core of sshd seals less."""

OFTEN: Final = 512 << 10
"""Bytes of the smallest grant, because each grant is a packet. A small window is granted in halves."""

TICK_S: Final = 1e-3
"""uvloop's clock counts milliseconds: it measures a shorter round trip as zero."""


@lru_cache(maxsize=64)  # most windows have one of a few sizes
def _enough(size: int) -> int:
    """How many consumed bytes make a grant, for a window of `size` bytes."""
    return min((size + 1) // 2, max(OFTEN, size // 8))


class ReceiveWindow:
    """How much the peer may send on one channel. Sizes are bytes; `now` is a monotonic clock in seconds."""

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
        """The size up to which the window may grow: its share of what the path can carry.

        `passed` is the number of bytes that have arrived on the link so far.
        """
        path = min(WIDEST, max(NARROWEST, int(round_trip * FASTEST)))
        mine = self._granted + self._owed
        return max(path // 4, path * mine // max(passed - self._passed, mine, 1))

    def grow(self, nbytes: int) -> None:
        """Add `nbytes` to the window; the next grant contains them."""
        self.size += nbytes
        self._owed += nbytes
        self._enough = _enough(self.size)

    def shrink(self, now: float, ceiling: int = WIDEST, *, tight: bool) -> int:
        """Shrink the window if it is idle or much too large, or if memory is `tight`. Returns by how many
        bytes.

        Bytes that are owed are not granted. A channel's share of the traffic goes up and down, so its window
        counts as too large only above twice its `ceiling`.
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
