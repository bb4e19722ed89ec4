"""When a row of verdicts changes a state: pure, so that it can be tested for every row."""

from __future__ import annotations

from proxy.snapshots import ClusterState


class Hysteresis:
    """Up or down only after `threshold` equal verdicts in a row; the first verdict ever decides at once.

    Waiting for a second one at the start would keep a healthy cluster `unknown` for a whole interval.
    """

    def __init__(self, threshold: int) -> None:
        self.threshold = threshold
        self._against = 0
        self.state = ClusterState.UNKNOWN

    def __repr__(self) -> str:
        return f"<Hysteresis {self.state} {self._against}/{self.threshold} against>"

    @property
    def is_recovering(self) -> bool:
        """Whether it is down, and what came last says otherwise."""
        return self.state is ClusterState.DOWN and self._against > 0

    def feed(self, *, alive: bool) -> bool:
        """Take a verdict; whether it changed the state."""
        verdict = ClusterState.UP if alive else ClusterState.DOWN
        self._against = 0 if verdict is self.state else self._against + 1
        if not self._against or (self._against < self.threshold and self.state is not ClusterState.UNKNOWN):
            return False
        self.state, self._against = verdict, 0
        return True
