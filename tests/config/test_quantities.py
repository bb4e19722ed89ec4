"""Durations and sizes, as people write them and as messages show them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.quantities import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("10s", 10),
        ("1.5m", 90),
        ("48h", 172800),
        ("2d", 172800),
        ("1h30m", 5400),
        ("1m0.5s", 60.5),
        ("0s", 0),
    ],
)
def test_a_duration_is_parsed(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "10", "s", "-1s", "10 s", "1h 30m", "1H", "1.s", "1..5s", "infs", "1w", "\u0663s", 5, None, True],
)
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="expected a duration like 500ms, 10s or 5m"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("5 min", "5m"),
        ("5min", "5m"),
        ("10 seconds", "10s"),
        ("1h 30m", "1h30m"),
        ("1 hour 30 minutes", "1h30m"),
        ("500 msec", "500ms"),
        ("2 Days", "2d"),
        ("5 s", "5s"),
    ],
)
def test_a_duration_in_another_form_gets_the_right_one(text: str, meant: str) -> None:
    with pytest.raises(ValueError, match=f"got '{text}': write {meant}$"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["10", "fast", "5 weeks", "-1 s", "min", "9" * 400 + " min"])
def test_text_that_contains_no_duration_gets_no_advice(text: str) -> None:
    with pytest.raises(ValueError, match="expected a duration") as caught:
        parse_duration(text)
    assert "write" not in str(caught.value)


@pytest.mark.parametrize("digits", [400, 5000])
def test_numbers_that_are_too_long_or_too_large_are_refused(digits: int) -> None:
    with pytest.raises(ValueError, match=r"^'999.* is too long$"):
        parse_duration("9" * digits + "s")
    with pytest.raises(ValueError, match=r"^'999.* is too large$"):
        parse_size("9" * digits + "G")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (172800, "48h"),
        (5400, "90m"),
        (300, "5m"),
        (90, "90s"),
        (1.5, "1500ms"),
        (0.5, "500ms"),
        (10799.999, "10799999ms"),
        (0, "0s"),
    ],
)
def test_a_duration_is_shown_in_its_largest_whole_unit(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512B", 512),
        ("64K", 65536),
        ("64Ki", 65536),
        ("64KiB", 65536),
        ("256M", 256 << 20),
        ("256Mi", 256 << 20),
        ("1G", 1 << 30),
    ],
)
def test_a_size_is_parsed(text: str, size: int) -> None:
    """As in systemd's `MemoryMax=256M` and Kubernetes' `256Mi`."""
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "256", "256MB", "256m", "256 M", "1.5G", "-1M", "KiB", "1TiB", "\u0663M", 256, None]
)
def test_what_is_no_size_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="expected a size like 64KiB or 256MiB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [(1 << 20, "1MiB"), (3 << 30, "3GiB"), (1536 << 10, "1536KiB"), (1000, "1000B"), (0, "0B")],
)
def test_a_size_is_shown_in_its_largest_whole_unit(size: int, text: str) -> None:
    assert format_size(size) == text


@given(st.integers(min_value=0, max_value=1 << 50))
def test_a_size_is_read_as_it_was_shown(size: int) -> None:
    assert parse_size(format_size(size)) == size
