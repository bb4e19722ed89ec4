"""How a link's traffic counts as load."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.ssh.pace import STEP, Pace


def test_a_download_makes_a_link_busy_until_it_is_over() -> None:
    pace = Pace(100.0)
    assert pace.busy == 0
    pace.sample(50 * STEP, 101.0)
    assert pace.busy == 50
    pace.sample(50 * STEP, 101.0)
    assert pace.busy == 50, "no time has passed, so the load is the same"
    pace.sample(50 * STEP, 101.5)
    assert pace.busy == 0


def test_a_download_over_a_slow_line_is_busy() -> None:
    pace = Pace(0.0)
    pace.sample(5_000_000 // 8, 1.0)
    assert pace.busy, "5 Mbit/s"


def test_less_than_one_step_per_second_is_not_busy() -> None:
    pace = Pace(0.0)
    pace.sample(STEP - 1, 1.0)
    assert pace.busy == 0


@given(st.lists(st.tuples(st.integers(0, 1 << 30), st.floats(0.1, 10)), max_size=20))
def test_busy_is_between_zero_and_the_highest_rate(steps: list[tuple[int, float]]) -> None:
    pace, moved, now, fastest = Pace(0.0), 0, 0.0, 0.0
    for nbytes, later in steps:
        moved, now, fastest = moved + nbytes, now + later, max(fastest, nbytes / later)
        pace.sample(moved, now)
        assert 0 <= pace.busy <= fastest * 1.001 / STEP
