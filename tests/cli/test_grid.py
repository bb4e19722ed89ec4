"""The layout of tables: how lines and columns are shared, and short forms of numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.cli.grid import bytes_text, fair_shares, seconds_text


@given(st.integers(min_value=0, max_value=99), st.lists(st.integers(min_value=0, max_value=99), max_size=5))
def test_lines_are_shared_fairly(room: int, wanted: list[int]) -> None:
    shares = fair_shares(room, wanted)
    assert sum(shares) == min(room, sum(wanted)) or sum(wanted) > room >= sum(shares) > room - len(wanted)
    assert all(share <= wish for share, wish in zip(shares, wanted, strict=True))
    most = max(shares, default=0)
    assert all(share == wish or share >= most - 1 for share, wish in zip(shares, wanted, strict=True))


@given(st.integers(min_value=0, max_value=1 << 52))
def test_bytes_take_at_most_five_columns(count: int) -> None:
    assert len(bytes_text(count)) <= 5


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0B"),
        (999, "999B"),
        (1000, "1.0K"),
        (1023, "1.0K"),
        (1536, "1.5K"),
        (10_240, "10K"),
        (1 << 30, "1.0G"),
        (1 << 50, "1024T"),
    ],
)
def test_a_number_of_bytes_has_a_short_form(count: int, text: str) -> None:
    assert bytes_text(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.42, "0.4s"), (42.1, "42s"), (200, "3m 20s"), (18_120, "5h 2m"), (1_047_600, "12d 3h")],
)
def test_a_duration_has_a_short_form(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text
