"""When to dial: backoff by class of failure. Pure: values and a clock in, delays out.

Full jitter (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/) so that a fleet does
not come back in step. A refused key or host key is tried slowly: sshd 9.8's PerSourcePenalties add up faults
that come faster than one in 5 s and then refuse the bastion's address for everybody. Each class counts its
own failures, so a first refusal after an outage is not the eighth. Success alone resets nothing, nor does a
change of class: a link has to stay up for a while.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Final

from proxy.errors import RetryClass

STABLE_S: Final = 60.0
"""A link that lived this long proves the gateway well; the backoff starts anew."""

HANDSHAKES_IN_FLIGHT: Final = 6
"""Per SSH server. sshd's default MaxStartups 10:30:100 drops at random from the tenth on; others dial it,
too.
"""

_LIMITS: Final = {
    RetryClass.SOON: (0.5, 15.0),
    RetryClass.SLOW: (15.0, 300.0),
}
"""First and largest upper bound of the delay, in seconds."""


_shared: Final = random.Random()  # noqa: S311 - jitter, not a secret
"""A state of 2.5 KB each for a hundred gateways would buy nothing."""


REFUSAL_S: Final = 5.0
"""What a refused key costs: sshd forgets one in so many seconds (PerSourcePenalties, authfail)."""

LEFT_S: Final = 1.0
"""What it costs to leave before any key was shown, because of the host key (noauth)."""

ALLOWED_S: Final = 10.0
"""How much of that may be open at a time.

Over 15 s sshd shuts the address out; a person may try by hand, too.
"""


class Pace:
    """The memory of what one server has refused, whoever asked.

    Who has not been accepted lately may be refused. So as many may try at a time as could all be refused, and
    one more with each refusal that the server has forgotten: one in 5 s.
    """

    __slots__ = ("_forgotten_at", "trying")

    def __init__(self) -> None:
        self._forgotten_at = float("-inf")
        self.trying = 0
        """Attempts that have begun, and may end in a refusal."""

    def refused(self, now: float, cost: float) -> None:
        """One has been refused. `now` is any monotonic clock, in seconds."""
        self._forgotten_at = max(self._forgotten_at, now) + cost

    def is_quiet(self, now: float) -> bool:
        """Nothing that was refused counts still."""
        return now >= self._forgotten_at

    def wait(self, now: float) -> float:
        """Seconds until one more may try, if none of those that do is accepted meanwhile."""
        return max(0.0, max(0.0, self._forgotten_at - now) + (self.trying + 1) * REFUSAL_S - ALLOWED_S)


class Backoff:
    """The memory of one gateway's failures."""

    __slots__ = ("_failures", "_random")

    def __init__(self, rng: random.Random | None = None) -> None:
        self._failures: Counter[RetryClass] = Counter()
        self._random = rng or _shared

    def failed(self, retry: RetryClass) -> float:
        """Count a failed dial; seconds until the next one."""
        first, largest = _LIMITS[retry]
        bound = min(largest, first * 2.0 ** min(self._failures[retry], 16))
        self._failures[retry] += 1
        # SLOW never dials at once: half of its bound is certain.
        least = bound / 2 if retry is RetryClass.SLOW else 0.0
        return self._random.uniform(least, bound)

    def unused(self) -> float:
        """A link has ended for being idle, which is no failure; seconds until the next dial."""
        return self._random.uniform(0.0, _LIMITS[RetryClass.SOON][0])

    def lost(self, age: float) -> float:
        """A link that was up for `age` seconds has ended; seconds until the next dial."""
        if age >= STABLE_S:
            self._failures.clear()
        return self.failed(RetryClass.SOON)


class Outage:
    """Since when a gateway has had no link, and whether one is in sight."""

    __slots__ = ("_since", "has_failed")

    def __init__(self, now: float) -> None:
        self._since: float | None = now
        self.has_failed = False
        """A dial has failed since: until then, a client that comes may be just in time for the next one."""

    def link(self, now: float, *, is_up: bool) -> None:
        """There is one, or there is none."""
        if is_up:
            self._since, self.has_failed = None, False
        elif self._since is None:
            self._since = now

    def seconds(self, now: float) -> float:
        """How long it has lasted."""
        return 0.0 if self._since is None else now - self._since

    def outlasts(self, patience: float, now: float) -> bool:
        """Whether it has lasted longer than a client would wait: who comes now would wait in vain, like those
        before.
        """
        return self.has_failed and self._since is not None and now - self._since > patience
