"""What a link's traffic weighs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.ssh.pace import CHANNEL, LOOK_S, Pace


def test_a_download_weighs_as_much_as_many_channels_and_nothing_when_it_is_over() -> None:
    pace = Pace(100.0)
    assert pace.weight(0, 100.0) == 0
    assert pace.weight(50 * CHANNEL, 101.0) == 50
    assert pace.weight(50 * CHANNEL, 101.0 + LOOK_S / 2) == 50  # too soon to say
    assert pace.weight(50 * CHANNEL, 102.0) == 0


def test_requests_weigh_nothing() -> None:
    pace = Pace(0.0)
    assert pace.weight(CHANNEL - 1, 1.0) == 0


@given(st.lists(st.tuples(st.integers(0, 1 << 30), st.floats(0, 10)), max_size=20))
def test_never_less_than_nothing_nor_more_than_the_fastest_moment(steps: list[tuple[int, float]]) -> None:
    pace, moved, now = Pace(0.0), 0, 0.0
    for nbytes, later in steps:
        moved, now = moved + nbytes, now + later
        assert 0 <= pace.weight(moved, now) <= moved / LOOK_S / CHANNEL
