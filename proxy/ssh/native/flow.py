"""Who may send when the link does not take everything.

While the kernel takes each turn's write, everyone sends. When it does not, the link is congested: a channel that has had its
share since then waits in a queue, and one that says little goes on unhindered; a request is not kept behind a bulk
transfer. Past `HIGH_WATER`, and while keys are exchanged, the link is shut and everyone who has something to say waits.
When the kernel has taken everything, the queue goes on in its order, a few channels per turn: a deficit round robin.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final, Protocol

SHARE: Final = 32 << 10
"""Bytes: one full packet."""

HIGH_WATER: Final = 512 << 10
"""Bytes that wait in the link's transport before nobody may add to them."""

RESUME_AT_ONCE: Final = 4
"""Channels that go on per turn. All at once, the same first few would always fill the link again."""


class Sender(Protocol):
    """A channel, as its link's flow sees it."""

    turn: int
    """The turn that `spent` belongs to."""
    spent: int
    """Bytes sent in it."""

    def hold(self) -> None:
        """Take no more from the client."""

    def go_on(self) -> None:
        """Send what is pending, and take again."""


class Flow:
    """The queue of one link."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: OrderedDict[Sender, None] = OrderedDict()
        self._resuming: asyncio.Handle | None = None
        self._turn = 0
        self._is_congested = False
        self._is_full = False
        self._is_held = False
        self.is_shut = False
        """Nobody may send."""

    def __repr__(self) -> str:
        return f"<Flow waiting={len(self._waiting)} congested={self._is_congested} shut={self.is_shut}>"

    def spend(self, sender: Sender, nbytes: int) -> None:
        """`sender` has sent that much: it waits if that was its share of a link that is congested."""
        if sender.turn != self._turn:
            sender.turn, sender.spent = self._turn, 0
        sender.spent += nbytes
        if self._is_congested and sender.spent >= SHARE:
            self.wait(sender)

    def wait(self, sender: Sender) -> None:
        """Queue `sender` until there is room."""
        if sender not in self._waiting:
            self._waiting[sender] = None
            sender.hold()

    def is_waiting(self, sender: Sender) -> bool:
        """Whether it is queued."""
        return sender in self._waiting

    def forget(self, sender: Sender) -> None:
        """It has ended."""
        self._waiting.pop(sender, None)

    # ------------------------------------------------------------------------------- what the link can take

    def written(self, unsent: int) -> None:
        """A turn's bytes were written, and `unsent` bytes are left."""
        if unsent > HIGH_WATER:
            self._is_full = self.is_shut = True
        elif not self._is_congested:
            self._turn += 1

    def congested(self) -> None:
        """The kernel does not take everything any more."""
        self._is_congested = True

    def drained(self) -> None:
        """It has taken everything."""
        self._is_congested = self._is_full = False
        self.is_shut = self._is_held
        self._turn += 1
        self._resume()

    def keys(self, *, is_held: bool) -> None:
        """Keys are being exchanged, or there are new ones."""
        self._is_held = is_held
        self.is_shut = is_held or self._is_full
        self._resume()

    def _resume(self) -> None:
        for _ in range(min(RESUME_AT_ONCE, len(self._waiting))):
            if self.is_shut or self._is_congested:
                return
            sender, _none = self._waiting.popitem(last=False)
            sender.go_on()
        if self._waiting and self._resuming is None:
            self._resuming = self._loop.call_soon(self._resume_more)

    def _resume_more(self) -> None:
        self._resuming = None
        self._resume()
