"""Idle connections are found by their byte counters: never early, and at most a quarter of the
timeout late.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from proxy.relay.idle import IdleWatch


@dataclass(eq=False)
class Connection:
    to_cluster: int = 0
    from_cluster: int = 0


@given(
    timeout=st.floats(1, 3600),
    moves=st.lists(st.floats(0, 5000), max_size=20),
    beats=st.lists(st.floats(0.001, 0.03), min_size=60, max_size=200),
)
def test_an_idle_connection_is_found_never_early_and_not_much_too_late(
    timeout: float, moves: list[float], beats: list[float]
) -> None:
    """`moves`: when bytes arrive; `beats`: the time between two samples. Both in multiples of the timeout."""
    connection, watch = Connection(), IdleWatch[Connection]()
    now, last, left = 100.0, 100.0, sorted(100.0 + move for move in moves)
    for beat in beats:
        now += beat * timeout
        while left and left[0] <= now:
            last = left.pop(0)
            connection.from_cluster += 1
        ended = watch.sample([connection], timeout, now)
        assert ended in ([], [connection])
        if ended:
            assert now - last >= timeout
            return
        # Sampled after its last byte, and again at the end, each time up to an eighth plus one beat late.
        assert now - last < timeout * (1 + 2 * (1 / 8 + 0.03) + 0.001)


def test_without_a_limit_nothing_is_remembered() -> None:
    connection, watch = Connection(), IdleWatch[Connection]()
    assert watch.sample([connection], 1.0, 10.0) == []
    assert watch.sample([connection], None, 1000.0) == []
    assert watch.sample([connection], 1.0, 2000.0) == [], "seen for the first time"
    assert watch.sample([connection], 1.0, 2001.0) == [connection]


def test_connections_that_have_ended_are_forgotten() -> None:
    connection, watch = Connection(), IdleWatch[Connection]()
    watch.sample([connection], 1.0, 10.0)
    assert watch.sample([], 1.0, 20.0) == []
    assert watch.sample([connection], 1.0, 30.0) == []


def test_a_shorter_timeout_applies_at_once() -> None:
    connection, watch = Connection(), IdleWatch[Connection]()
    assert watch.sample([connection], 3600.0, 10.0) == []
    assert watch.sample([connection], 5.0, 12.0) == []
    assert watch.sample([connection], 5.0, 15.0) == [connection], (
        "silent since it was first seen, under whichever timeout"
    )
