"""Decides after which probes a cluster changes to up or down. Pure, so that every sequence can be tested."""

from __future__ import annotations

from typing import Final

from proxy.snapshots import ClusterState

_UNDECIDED: Final = frozenset({ClusterState.UNKNOWN, ClusterState.IDLE})


class Hysteresis:
    """The state of a cluster. It changes after `threshold` equal verdicts in a row.

    The very first verdict decides at once, and so does the first after a rest: otherwise a healthy cluster
    would stay `unknown` for a whole interval after a start.
    """

    def __init__(self, threshold: int) -> None:
        self.threshold = threshold
        self._against = 0
        self.state = ClusterState.UNKNOWN

    def __repr__(self) -> str:
        return f"<Hysteresis {self.state} {self._against}/{self.threshold} against>"

    @property
    def is_recovering(self) -> bool:
        """Whether the state is still down, but the last verdict was up."""
        return self.state is ClusterState.DOWN and self._against > 0

    def become_idle(self) -> bool:
        """The cluster is idle: forget all verdicts. Returns whether it was not idle before."""
        before, self.state, self._against = self.state, ClusterState.IDLE, 0
        return before is not ClusterState.IDLE

    def feed(self, *, alive: bool) -> bool:
        """Count a verdict, and return whether it changed the state."""
        verdict = ClusterState.UP if alive else ClusterState.DOWN
        self._against = 0 if verdict is self.state else self._against + 1
        if not self._against or (self._against < self.threshold and self.state not in _UNDECIDED):
            return False
        self.state, self._against = verdict, 0
        return True
