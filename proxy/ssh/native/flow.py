"""Who may send when the link does not take everything.

While the kernel takes all that a turn writes, every channel sends. When it does not, the link is congested.
Then a channel waits that has sent its share since the kernel last took everything. So a bulk transfer waits
first, and a request does not wait behind it. Past `HIGH_WATER`, and while keys are exchanged, the link is
shut: every channel that has something to send waits.

When the kernel has taken everything, those channels go on first that have not sent their share. The others
follow by deficit round robin, a few per turn of the loop. Each round gives a channel one share. One that has
sent more than that (a client's socket is read up to 32 times in one turn) waits for the rounds that it owes.
While the link takes everything, the next round follows when the clients of this one have been read.

A request waits at least for what it cannot overtake: `NOT_SENT_LOW_WATER` in the kernel, what is in the
transport, and what sshd has of each window and has not passed on. A bulk transfer that is alone on its link
may use the whole window, 2 MiB. Beside others it keeps some back (`usable`): on loopback, requests beside an
upload had a p50 of 2.0 ms and now have 0.7, while the upload has 0.7 GB/s instead of 1.1 (with `ssh -L`:
0.65). All links share one loop. So beside others, on any link, a channel sends at most a `MOUTHFUL` in a
turn.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final, Protocol

from proxy.ssh.turns import Turns

SHARE: Final = 32 << 10
"""Bytes: one full packet."""

HIGH_WATER: Final = 512 << 10
"""Bytes that wait in the link's transport before nobody may add to them."""

RESUME_AT_ONCE: Final = 4
"""Channels that have sent their share, and go on in one turn. If all did, the first few would fill the link,
and the others would stop again.
"""

MODEST_AT_ONCE: Final = HIGH_WATER // SHARE
"""Channels that have not sent their share, and go on in one turn: with a share each they fill the link."""


DEBT: Final = 8 * SHARE
"""Bytes: the most that is held against a channel."""


SHARED_WAY: Final = 256 << 10
"""Bytes that a bulk transfer beside others may have under way, where the round trip is short."""

SHARED_RATE: Final = 250e6
"""Bytes per second that it may have where the round trip is long."""

SHARED_S: Final = 0.25
"""Seconds for which a transfer is not alone after another channel has sent something."""

MOUTHFUL: Final = 256 << 10
"""Bytes that a link sends in one turn of the loop while there are others. libuv reads up to 32 times from a
socket that always has more, and a request waited for all of that: beside an upload requests had a p50 of
0.65 ms, and now have 0.29. A transfer that is alone is not held: it would be 8 % slower.
"""

GRANTS: Final = 2
"""A peer grants credit when it has passed enough on (OpenSSH: 96 KiB, others: half a window). With less than
two such grants under way a transfer might wait for ever.
"""

PATIENCE_S: Final = 1.0
"""Seconds without a grant after which nothing is kept back: a peer may begin with smaller grants than it goes
on with.
"""


class Sender(Protocol):
    """A channel, as its link's flow sees it."""

    period: int
    """Which period `spent` is of. A period ends when the kernel has taken everything."""
    spent: int
    """Bytes sent in it."""

    def hold(self) -> None:
        """Take no more from the client."""

    def go_on(self) -> None:
        """Send what is pending, and take again."""

    def use_reserve(self) -> None:
        """Use all the credit there is."""


class Flow:
    """The queue of one link; `turns` is what it shares with the others of its loop."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._loop = asyncio.get_running_loop()
        self._had_share: OrderedDict[Sender, None] = OrderedDict()
        self._modest: OrderedDict[Sender, None] = OrderedDict()
        self._resuming: asyncio.Handle | None = None
        self._period = 0
        self.is_congested = False
        """The kernel does not take everything."""
        self._is_full = False
        self._is_rekeying = False
        self.is_shut = False
        """Nobody may send."""
        self.round_trip = 0.0
        """Seconds that the way itself takes."""
        self._said = 0
        self._has_others = False
        self._others_until = 0.0
        self._changes_heard = turns.changes
        self._speaker: Sender | None = None
        self._changes = 0
        self._seen = 0
        self._shared_until = 0.0
        self._kept: dict[Sender, float] = {}
        self._reserve_timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return (
            f"<Flow waiting={len(self._modest)}+{len(self._had_share)} congested={self.is_congested} "
            f"shut={self.is_shut}>"
        )

    def spend(self, sender: Sender, nbytes: int) -> None:
        """`sender` has sent `nbytes`. On a congested link it waits if that completes its share."""
        if sender.period != self._period:
            sender.period, sender.spent = self._period, 0
            if sender is not self._speaker:
                self._speaker = sender
                self._changes += 1
        sender.spent += nbytes
        self._said += nbytes
        if (self.is_congested and sender.spent >= SHARE) or (self._said >= MOUTHFUL and self._has_others):
            self.wait(sender)

    def usable(self, sender: Sender, credit: int, under_way: int, grant: int) -> int:
        """How many bytes of its `credit` a channel may use, now that it was granted more.

        All of it if the channel is alone on its link; otherwise so much that `under_way`, which the peer has
        and has not granted anew, stays small. `grant` is the smallest that there has been. If nothing more is
        granted for a while, `use_reserve` frees what is kept back.
        """
        self._kept.pop(sender, None)
        now = self._loop.time()
        if self._changes - self._seen > 1:  # one is whoever has just begun
            self._shared_until, self._seen = now + SHARED_S, self._changes
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
        """Queue `sender` until there is room."""
        if not self.is_waiting(sender):
            is_modest = sender.period != self._period or sender.spent < SHARE
            (self._modest if is_modest else self._had_share)[sender] = None
            sender.hold()

    def is_waiting(self, sender: Sender) -> bool:
        """Whether it is queued."""
        return sender in self._had_share or sender in self._modest

    def forget(self, sender: Sender) -> None:
        """It has ended."""
        self._kept.pop(sender, None)
        if self._reserve_timer is not None and not self._kept:
            self._reserve_timer.cancel()
            self._reserve_timer = None
        self._had_share.pop(sender, None)
        self._modest.pop(sender, None)
        if self._speaker is sender:
            self._speaker = None

    def turn_ends(self) -> None:
        """A turn of the loop ends: who waits only because others were to be read goes on."""
        said, self._said = self._said, 0
        if said:
            self._turns.sent(self)
        if said < MOUTHFUL:
            return
        now, changes = self._loop.time(), self._changes + self._turns.changes
        if changes - self._changes_heard > 1:
            self._others_until = now + SHARED_S
        self._changes_heard, self._has_others = changes, now < self._others_until
        if not (self.is_congested or self.is_shut):
            self._resume()

    # ------------------------------------------------------------------------------- what the link can take

    def written(self, unsent: int) -> None:
        """There was a write, and `unsent` bytes wait in the transport."""
        if unsent > HIGH_WATER:
            self._is_full = self.is_shut = True
        elif not self.is_congested:
            self._period += 1

    def congested(self) -> None:
        """The kernel does not take everything any more."""
        self.is_congested = True

    def drained(self) -> None:
        """It has taken everything."""
        self.is_congested = self._is_full = False
        self.is_shut = self._is_rekeying
        self._period += 1
        self._resume()

    def keys(self, *, is_rekeying: bool) -> None:
        """Keys are being exchanged, or there are new ones."""
        self._is_rekeying = is_rekeying
        self.is_shut = is_rekeying or self._is_full
        self._resume()

    def _resume(self) -> None:
        for _ in range(min(MODEST_AT_ONCE, len(self._modest))):
            if self.is_shut or self.is_congested:
                break
            self._modest.popitem(last=False)[0].go_on()
        self._round()
        if (
            (self._had_share or self._modest)
            and self._resuming is None
            and not (self.is_shut or self.is_congested)
        ):
            # After two turns: a callback of the next turn runs before the clients that go on are read.
            self._resuming = self._loop.call_soon(self._resume_soon)

    def _round(self) -> None:
        """Give a share to each that waits, until enough go on."""
        went = 0
        for _ in range(len(self._had_share)):
            if self.is_shut or went == RESUME_AT_ONCE or (self.is_congested and went):
                # One at least: the modest may be many
                return
            sender = next(iter(self._had_share))
            sender.spent = min(sender.spent, DEBT) - SHARE
            if sender.spent >= SHARE:
                self._had_share.move_to_end(sender)
            else:
                del self._had_share[sender]
                sender.go_on()
                went += 1

    def _resume_soon(self) -> None:
        self._resuming = self._loop.call_soon(self._resume_more)

    def _resume_more(self) -> None:
        self._resuming = None
        if not self.is_congested:
            self._resume()
