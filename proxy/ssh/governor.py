"""When to dial: backoff for each class of failure. Pure: values and a time in, delays out.

Full jitter (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/) keeps many gateways
from dialling at the same moment.

After a refused key or host key we wait long. sshd 9.8 adds up such failures if they come faster than one in 5
s (PerSourcePenalties). At 15 s of penalty it refuses our address, and with it all gateways on that sshd.

Each class counts its own failures, so the first refusal after a long outage has the shortest delay of its
class. A dial that succeeds, or a failure of another class, resets no count: only a link that stays up for a
while does.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Final

from proxy.errors import RetryClass

STABLE_S: Final = 60.0
"""Seconds. When a link was up for so long, the gateway works: backoff starts again at the shortest delay."""

HANDSHAKES_IN_FLIGHT: Final = 6
"""How many handshakes one server gets at a time. sshd drops some from the tenth on (MaxStartups 10:30:100).

Other programs dial it, too, so we stay below that.
"""

_LIMITS: Final = {
    RetryClass.SOON: (0.5, 15.0),
    RetryClass.SLOW: (15.0, 300.0),
}
"""The upper bound of the first delay, and the largest upper bound, in seconds."""


_shared: Final = random.Random()  # noqa: S311 - jitter, not a secret
"""All gateways use it: its state takes 2.5 KB, and a generator for each gateway would bring nothing."""


REFUSAL_S: Final = 5.0
"""The penalty for a refused key: sshd takes this many seconds to forget it (PerSourcePenalties, authfail)."""

LEFT_S: Final = 1.0
"""The penalty for a client that leaves before it has shown a key, as we do over a host key (noauth)."""

ALLOWED_S: Final = 10.0
"""Seconds of penalty that we may cause at one server.

At 15 s sshd refuses our address. The other 5 s are left for an operator who logs in by hand.
"""


class LoginPace:
    """How many login attempts may be under way at one server, given what it has refused.

    Each attempt that may be refused counts as a refusal. One more may start when the server has forgotten
    one, which takes 5 s.
    """

    __slots__ = ("_forgotten_at", "trying")

    def __init__(self) -> None:
        self._forgotten_at = float("-inf")
        self.trying = 0
        """Attempts that are under way and may end in a refusal."""

    def refused(self, now: float, cost: float) -> None:
        """Count a refusal. `now` is any monotonic clock, in seconds."""
        self._forgotten_at = max(self._forgotten_at, now) + cost

    def is_quiet(self, now: float) -> bool:
        """Whether the server has forgotten all refusals."""
        return now >= self._forgotten_at

    def wait(self, now: float) -> float:
        """Seconds until one more attempt may start, if none of those under way is accepted before."""
        return max(0.0, max(0.0, self._forgotten_at - now) + (self.trying + 1) * REFUSAL_S - ALLOWED_S)


class Backoff:
    """Counts the failures of one gateway, and computes the delay before its next dial."""

    __slots__ = ("_failures", "_random")

    def __init__(self, rng: random.Random | None = None) -> None:
        self._failures: Counter[RetryClass] = Counter()
        self._random = rng or _shared

    def failed(self, retry: RetryClass) -> float:
        """Count a failed dial. Returns seconds until the next one."""
        first, largest = _LIMITS[retry]
        bound = min(largest, first * 2.0 ** min(self._failures[retry], 16))
        self._failures[retry] += 1
        # SLOW never dials at once: it waits at least half of the bound.
        least = bound / 2 if retry is RetryClass.SLOW else 0.0
        return self._random.uniform(least, bound)

    def unused(self) -> float:
        """A link ended because it was idle, which is no failure. Returns seconds until the next dial."""
        return self._random.uniform(0.0, _LIMITS[RetryClass.SOON][0])

    def lost(self, age: float) -> float:
        """A link ended that was up for `age` seconds. Returns seconds until the next dial."""
        if age >= STABLE_S:
            self._failures.clear()
        return self.failed(RetryClass.SOON)


class Outage:
    """Since when a gateway has had no link, and whether a dial has failed in that time."""

    __slots__ = ("_since", "has_failed")

    def __init__(self, now: float) -> None:
        self._since: float | None = now
        self.has_failed = False
        """Whether a dial has failed in the outage. Before that, clients wait: the first dial may succeed."""

    def link(self, now: float, *, is_up: bool) -> None:
        """Note whether the gateway has a link now."""
        if is_up:
            self._since, self.has_failed = None, False
        elif self._since is None:
            self._since = now

    def seconds(self, now: float) -> float:
        """How long the outage has lasted; 0 if there is none."""
        return 0.0 if self._since is None else now - self._since

    def outlasts(self, patience: float, now: float) -> bool:
        """Whether the outage is longer than `patience`, the time that a client waits.

        A client that arrives then is refused at once: clients before it have waited for so long in vain.
        """
        return self.has_failed and self._since is not None and now - self._since > patience
