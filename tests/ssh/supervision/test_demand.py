"""For any order of clients that come and go: how many links they need, and since when no client needs one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.ssh.supervision.demand import Demand

LOOKS = st.lists(st.tuples(st.integers(0, 40), st.floats(0.0, 100.0)))
"""(number of clients, seconds since the sample before)"""


@given(LOOKS, st.integers(1, 16))
def test_there_are_as_many_links_as_clients_at_a_time_up_to_connections(
    looks: list[tuple[int, float]], connections: int
) -> None:
    demand, now = Demand(0.0), 0.0
    for clients, seconds in looks:
        demand.update(clients, now := now + seconds)
    most = max((clients for clients, _ in looks), default=0)
    assert demand.links(connections) == min(connections, max(1, most))
    demand.reset()
    assert demand.links(connections) == 1


@given(LOOKS, st.floats(0.0, 1000.0))
def test_unused_time_counts_from_the_last_sample_with_a_client(
    looks: list[tuple[int, float]], later: float
) -> None:
    demand, now, last = Demand(0.0), 0.0, 0.0
    for clients, seconds in looks:
        demand.update(clients, now := now + seconds)
        last = now if clients else last
    assert demand.unused(now + later) == now + later - last
