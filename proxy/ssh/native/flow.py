"""Which channels of a link may send while the link is slow.

As long as the kernel takes all bytes that a turn of the loop writes, every channel sends. When the kernel
does not, the link is congested: a channel waits if it has sent its share since the kernel last took
everything. So a bulk transfer waits first, and a request does not wait behind it. The link is shut when more
than `HIGH_WATER` bytes wait in its transport, and during a key exchange: then every channel that has
something to send waits.

When the kernel has taken everything, channels that have not sent their share resume first. The others resume
by deficit round robin, a few in each turn of the loop. A round gives each channel one share. A channel that
has sent more than one share (a client's socket is read up to 32 times in one turn) waits for as many rounds.
If the link takes everything, the next round begins when the clients of this round have been read.

A request cannot overtake bytes that wait in the kernel (`NOT_SENT_LOW_WATER`), in the transport, and in sshd,
up to the window of each channel. A bulk transfer that is alone on its link may use its whole window, 2 MiB.
Beside other channels it may not (`usable`): on loopback, requests beside an upload had a p50 of 2.0 ms and
now have 0.7 ms, and the upload has 0.7 GB/s instead of 1.1 (with `ssh -L`: 0.65). All links share one loop,
so while other channels are active on any link, a link sends at most `TURN_LIMIT` bytes in one turn.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final, Protocol

from proxy.ssh.turns import Turns

SHARE: Final = 32 << 10
"""Bytes that a channel may send before others have their turn: one full packet."""

HIGH_WATER: Final = 512 << 10
"""Bytes that may wait in the link's transport. With more, no channel may send."""

RESUME_AT_ONCE: Final = 4
"""How many channels that have sent their share resume in one turn. If all did, the first few would fill the
link, and the others would have to wait again.
"""

BELOW_SHARE_AT_ONCE: Final = HIGH_WATER // SHARE
"""How many channels that have not sent their share resume in one turn: one share each fills the link."""


DEBT: Final = 8 * SHARE
"""Bytes: a channel that has sent more than this waits as if it had sent this much."""


SHARED_WAY: Final = 256 << 10
"""Bytes that a bulk transfer may have under way beside other channels if the round trip is short."""

SHARED_RATE: Final = 250e6
"""Bytes that it may have under way for each second of the round trip, if the round trip is long."""

SHARED_S: Final = 0.25
"""After another channel has sent something, a transfer counts as not alone for so many seconds."""

TURN_LIMIT: Final = 256 << 10
"""Bytes that a link sends in one turn of the loop while other channels are active. libuv reads up to 32 times
from a socket that always has more, and a request waited for all these reads: beside an upload, requests had a
p50 of 0.65 ms, and now have 0.29. A transfer that is alone has no such limit: it would be 8 % slower.
"""

GRANTS: Final = 2
"""A peer grants credit when it has passed on enough bytes (OpenSSH: 96 KiB, others: half a window). A
transfer must have at least two such grants under way; with less it might wait for ever.
"""

PATIENCE_S: Final = 1.0
"""Seconds without a grant after which a channel may use all its credit: the later grants of a peer may be
larger than its first ones.
"""


class Sender(Protocol):
    """What a flow needs of a channel."""

    period: int
    """The period in which `spent` was counted. A period ends when the kernel has taken everything."""
    spent: int
    """Bytes that the channel has sent in that period."""

    def hold(self) -> None:
        """Send nothing, and do not read from the client, until `resume`."""

    def resume(self) -> None:
        """Send pending bytes, and read from the client again."""

    def use_reserve(self) -> None:
        """Use all credit, also the part that `Flow.usable` has kept back."""


class Flow:
    """The queue of one link's channels. All links of a loop share `turns`."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._loop = asyncio.get_running_loop()
        self._had_share: OrderedDict[Sender, None] = OrderedDict()
        self._below_share: OrderedDict[Sender, None] = OrderedDict()
        self._resuming: asyncio.Handle | None = None
        self._period = 0
        self.is_congested = False
        """The kernel does not take everything."""
        self._is_full = False
        self._is_rekeying = False
        self.is_shut = False
        """No channel may send."""
        self.round_trip = 0.0
        """Seconds of a round trip without load."""
        self._sent = 0
        self._has_others = False
        self._others_until = 0.0
        self._changes_before = turns.changes
        self._last_sender: Sender | None = None
        self._changes = 0
        self._changes_seen = 0
        self._shared_until = 0.0
        self._kept: dict[Sender, float] = {}
        self._reserve_timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return (
            f"<Flow waiting={len(self._below_share)}+{len(self._had_share)} congested={self.is_congested} "
            f"shut={self.is_shut}>"
        )

    def spend(self, sender: Sender, nbytes: int) -> None:
        """Count `nbytes` that `sender` has sent. On a congested link it waits when it has sent its share."""
        if sender.period != self._period:
            sender.period, sender.spent = self._period, 0
            if sender is not self._last_sender:
                self._last_sender = sender
                self._changes += 1
        sender.spent += nbytes
        self._sent += nbytes
        if (self.is_congested and sender.spent >= SHARE) or (self._sent >= TURN_LIMIT and self._has_others):
            self.wait(sender)

    def usable(self, sender: Sender, credit: int, under_way: int, grant: int) -> int:
        """How many bytes of its `credit` a channel may use; to be called when the peer has granted more.

        All of it if the channel is alone on its link. Otherwise few bytes may be under way: `under_way` is
        how many the channel has sent that the peer has not replaced by new credit. `grant` is the smallest
        grant of this peer so far. If the peer grants nothing more for a while, the flow calls `use_reserve`.
        """
        self._kept.pop(sender, None)
        now = self._loop.time()
        if self._changes - self._changes_seen > 1:  # one change is the channel that has just begun
            self._shared_until, self._changes_seen = now + SHARED_S, self._changes
        if now >= self._shared_until:
            return credit
        allowed = max(SHARED_WAY, int(self.round_trip * SHARED_RATE), GRANTS * grant) - under_way
        if allowed >= credit:
            return credit
        self._kept[sender] = now
        if self._reserve_timer is None:
            self._reserve_timer = self._loop.call_later(PATIENCE_S, self._use_reserves)
        return max(0, allowed)

    def _use_reserves(self) -> None:
        now, self._reserve_timer = self._loop.time(), None
        for sender in [sender for sender, since in self._kept.items() if now - since >= PATIENCE_S]:
            del self._kept[sender]
            sender.use_reserve()
        if self._kept:
            self._reserve_timer = self._loop.call_later(PATIENCE_S, self._use_reserves)

    def wait(self, sender: Sender) -> None:
        """Hold `sender`, and queue it until there is room."""
        if not self.is_waiting(sender):
            is_below_share = sender.period != self._period or sender.spent < SHARE
            (self._below_share if is_below_share else self._had_share)[sender] = None
            sender.hold()

    def is_waiting(self, sender: Sender) -> bool:
        """Whether `sender` is queued."""
        return sender in self._had_share or sender in self._below_share

    def forget(self, sender: Sender) -> None:
        """Remove `sender`, which has ended."""
        self._kept.pop(sender, None)
        if self._reserve_timer is not None and not self._kept:
            self._reserve_timer.cancel()
            self._reserve_timer = None
        self._had_share.pop(sender, None)
        self._below_share.pop(sender, None)
        if self._last_sender is sender:
            self._last_sender = None

    def turn_ends(self) -> None:
        """Call it when a turn of the loop ends: it resumes channels that waited only for `TURN_LIMIT`."""
        sent, self._sent = self._sent, 0
        if sent:
            self._turns.sent(self)
        if sent < TURN_LIMIT:
            return
        now, changes = self._loop.time(), self._changes + self._turns.changes
        if changes - self._changes_before > 1:
            self._others_until = now + SHARED_S
        self._changes_before, self._has_others = changes, now < self._others_until
        if not (self.is_congested or self.is_shut):
            self._resume()

    # ------------------------------------------------------------------------------- what the link can take

    def written(self, unsent: int) -> None:
        """The link has written, and now `unsent` bytes wait in its transport."""
        if unsent > HIGH_WATER:
            self._is_full = self.is_shut = True
        elif not self.is_congested:
            self._period += 1

    def congested(self) -> None:
        """The kernel has not taken everything."""
        self.is_congested = True

    def drained(self) -> None:
        """The kernel has taken everything: resume."""
        self.is_congested = self._is_full = False
        self.is_shut = self._is_rekeying
        self._period += 1
        self._resume()

    def keys(self, *, is_rekeying: bool) -> None:
        """A key exchange has begun (`is_rekeying`) or ended."""
        self._is_rekeying = is_rekeying
        self.is_shut = is_rekeying or self._is_full
        self._resume()

    def _resume(self) -> None:
        for _ in range(min(BELOW_SHARE_AT_ONCE, len(self._below_share))):
            if self.is_shut or self.is_congested:
                break
            self._below_share.popitem(last=False)[0].resume()
        self._round()
        if (
            (self._had_share or self._below_share)
            and self._resuming is None
            and not (self.is_shut or self.is_congested)
        ):
            # Two turns later: in the next turn, callbacks run before the sockets of the resumed clients are
            # read.
            self._resuming = self._loop.call_soon(self._resume_soon)

    def _round(self) -> None:
        """Credit each waiting channel with one share, until enough of them resume."""
        went = 0
        for _ in range(len(self._had_share)):
            if self.is_shut or went == RESUME_AT_ONCE or (self.is_congested and went):
                # At least one resumes, even if channels below their share have congested the link again.
                return
            sender = next(iter(self._had_share))
            sender.spent = min(sender.spent, DEBT) - SHARE
            if sender.spent >= SHARE:
                self._had_share.move_to_end(sender)
            else:
                del self._had_share[sender]
                sender.resume()
                went += 1

    def _resume_soon(self) -> None:
        self._resuming = self._loop.call_soon(self._resume_more)

    def _resume_more(self) -> None:
        self._resuming = None
        if not self.is_congested:
            self._resume()
