"""One line of the log for many events."""

from __future__ import annotations

from proxy.runtime.seldom import Seldom


def test_the_first_event_is_due_and_the_next_due_one_counts_those_between() -> None:
    due = Seldom(3600.0)
    assert [due() for _ in range(3)] == [1, 0, 0]
    due._since -= 3600.0
    assert [due() for _ in range(2)] == [3, 0]


def test_several_events_may_be_due_before_the_rest_are_counted() -> None:
    due = Seldom(3600.0, most=2)
    assert [due() for _ in range(5)] == [1, 1, 0, 0, 0]
    due._since -= 3600.0
    assert [due() for _ in range(4)] == [4, 1, 0, 0]
