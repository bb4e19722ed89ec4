"""The memory budget: what is acquired is released, and grants never exceed the limit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from proxy.relay.budget import INITIAL_WINDOW, MemoryBudget

CEILING = 2 << 20


@given(limit=st.integers(16 << 20, 1 << 30), connections=st.integers(1, 20_000))
def test_every_connection_gets_its_floor_before_the_budget_is_exhausted(limit: int, connections: int) -> None:
    budget = MemoryBudget(limit, connections)
    fits = min(connections, limit // 2 // budget.floor, 2000)
    assert all(budget.acquire_initial() >= budget.floor for _ in range(fits))
    assert budget.used <= limit


def test_an_exhausted_budget_grants_nothing_until_a_release() -> None:
    budget = MemoryBudget(16 << 20, 10)
    windows = []
    while window := budget.acquire_initial():
        windows.append(window)
    assert budget.is_exhausted
    budget.release(windows.pop())
    assert budget.acquire_initial()


def test_a_lone_channel_starts_with_a_useful_window_and_grows_to_the_ceiling() -> None:
    budget = MemoryBudget(256 << 20, 10_000)
    window = budget.acquire_initial()
    assert window == INITIAL_WINDOW
    while growth := budget.acquire_growth(window, CEILING):
        window += growth
    assert window == CEILING
    assert budget.used == CEILING


class Grants(RuleBasedStateMachine):
    """Channels open, grow, buffer and close in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.budget = MemoryBudget(32 << 20, 500)
        self.windows: list[int] = []
        self.charged: list[int] = []

    @rule()
    def open(self) -> None:
        if window := self.budget.acquire_initial():
            self.windows.append(window)

    @precondition(lambda self: self.windows)
    @rule(data=st.data())
    def grow(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.windows) - 1))
        self.windows[index] += self.budget.acquire_growth(self.windows[index], CEILING)

    @precondition(lambda self: self.windows)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        self.budget.release(self.windows.pop(data.draw(st.integers(0, len(self.windows) - 1))))

    @rule(nbytes=st.integers(0, 64 << 10))
    def charge(self, nbytes: int) -> None:
        self.budget.charge(nbytes)
        self.charged.append(nbytes)

    @precondition(lambda self: self.charged)
    @rule()
    def uncharge(self) -> None:
        self.budget.release(self.charged.pop())

    @invariant()
    def used_is_what_is_out(self) -> None:
        assert self.budget.used == sum(self.windows) + sum(self.charged)

    @invariant()
    def grants_keep_within_the_limit(self) -> None:
        assert sum(self.windows) <= self.budget.limit
        assert all(window <= CEILING for window in self.windows)


TestGrants = Grants.TestCase
