"""Locks out sources whose logins keep failing, as sshd 9.8 does (PerSourcePenalties). Pure.

Each failure adds seconds to the penalty of its source. When the penalty is more than LEAST_S, the source is
locked out: its connections are closed at once, until the penalty is over.
"""

from __future__ import annotations

from typing import Final

from proxy.ssh.server.startups import Source

REFUSED_S: Final = 5.0
"""Penalty for a client that has tried keys in vain, also if it has not signed with one (sshd: authfail)."""
NO_LOGIN_S: Final = 1.0
"""Penalty for a client that disconnects and has tried no key, at most a method that is not offered (sshd:
noauth).
"""
TIMEOUT_S: Final = 10.0
"""Penalty for a client that has not logged in by the deadline (sshd: grace-exceeded)."""
LEAST_S: Final = 15.0
MOST_S: Final = 600.0
MOST_SOURCES: Final = 65_536
"""How many sources are remembered. If another one fails, the source whose penalty ends first is forgotten."""


class Penalties:
    """The sources that have failed lately."""

    def __init__(self) -> None:
        self._until: dict[Source, float] = {}
        """When the penalty of each source ends; seconds of any monotonic clock."""
        self._locked_out: set[Source] = set()
        self._swept_at = 0.0

    def __len__(self) -> int:
        """How many sources are locked out."""
        return len(self._locked_out)

    def add(self, source: Source, seconds: float, now: float) -> bool:
        """Add the penalty of a failure. Returns True if this failure locks the source out."""
        self._sweep(now)
        until = min(max(self._until.get(source, now), now) + seconds, now + MOST_S)
        if source not in self._until and len(self._until) >= MOST_SOURCES:
            self._forget(min(self._until, key=self._until.__getitem__))
        self._until[source] = until
        if source in self._locked_out or until - now <= LEAST_S:
            return False
        self._locked_out.add(source)
        return True

    def seconds_left(self, source: Source, now: float) -> float:
        """The seconds until the source is no longer locked out; 0 if it is not locked out."""
        if source not in self._locked_out:
            return 0.0
        left = self._until[source] - now
        if left <= 0:
            self._forget(source)
        return max(0.0, left)

    def clear(self) -> None:
        """Forget every failure."""
        self._until.clear()
        self._locked_out.clear()

    def _sweep(self, now: float) -> None:
        """Forget the penalties that are over, at most once in LEAST_S: this reads all of them."""
        if now - self._swept_at < LEAST_S:
            return
        self._swept_at = now
        for source in [source for source, until in self._until.items() if until <= now]:
            self._forget(source)

    def _forget(self, source: Source) -> None:
        del self._until[source]
        self._locked_out.discard(source)
