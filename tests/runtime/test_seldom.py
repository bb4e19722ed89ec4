"""One line of the log for many events."""

from __future__ import annotations

from proxy.runtime.seldom import Seldom


async def test_the_first_is_due_and_the_next_counts_those_between() -> None:
    due = Seldom(3600.0)
    assert [due() for _ in range(3)] == [1, 0, 0]
    due._last -= 3600.0
    assert [due() for _ in range(2)] == [3, 0]
