"""Hysteresis, compared with its definition for every sequence of verdicts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.health.hysteresis import Hysteresis
from proxy.snapshots import ClusterState


def defined(verdicts: list[bool], threshold: int) -> ClusterState:
    """The state by definition: the verdict of the latest run of `threshold` equal verdicts, otherwise the
    first verdict.
    """
    for end in range(len(verdicts), threshold - 1, -1):
        if len(set(verdicts[end - threshold : end])) == 1:
            return ClusterState.UP if verdicts[end - 1] else ClusterState.DOWN
    return ClusterState.UP if verdicts[0] else ClusterState.DOWN


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(1, 5))
def test_the_state_is_the_verdict_of_the_last_run_that_was_long_enough(
    verdicts: list[bool], threshold: int
) -> None:
    hysteresis = Hysteresis(threshold)
    assert hysteresis.state is ClusterState.UNKNOWN
    for count, verdict in enumerate(verdicts, 1):
        before = hysteresis.state
        changed = hysteresis.feed(alive=verdict)
        assert hysteresis.state is defined(verdicts[:count], threshold)
        assert changed is (hysteresis.state is not before)


@given(st.lists(st.booleans(), max_size=10), st.booleans(), st.integers(1, 5))
def test_after_idle_time_the_first_verdict_decides(before: list[bool], first: bool, threshold: int) -> None:
    hysteresis = Hysteresis(threshold)
    for verdict in before:
        hysteresis.feed(alive=verdict)
    assert [hysteresis.become_idle(), hysteresis.become_idle(), hysteresis.state] == [
        True,
        False,
        ClusterState.IDLE,
    ]
    assert hysteresis.feed(alive=first)
    assert hysteresis.state is (ClusterState.UP if first else ClusterState.DOWN)


def test_a_single_different_verdict_changes_nothing() -> None:
    hysteresis = Hysteresis(2)
    assert [hysteresis.feed(alive=alive) for alive in (True, False, True, False, False, True, True)] == [
        True, False, False, False, True, False, True,
    ]  # fmt: skip
