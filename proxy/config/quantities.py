"""Reads and writes durations and sizes: `500ms`, `10s`, `1h30m`, `2d`; `64KiB`, `256M`, `1Gi`."""

from __future__ import annotations

import math
import re

from proxy.runtime.text import shown

_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+", re.ASCII)
_PART = re.compile(r"([\d.]+)(ms|s|m|h|d)", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SPELT = re.compile(r"([\d.]+) *([a-z]+) *", re.ASCII | re.IGNORECASE)
_LONG = {
    "msec": "ms",
    "millisecond": "ms",
    "sec": "s",
    "second": "s",
    "min": "m",
    "minute": "m",
    "hr": "h",
    "hour": "h",
    "day": "d",
}
_EXACT = 5e-7
"""Seconds: durations are read to the microsecond."""
_SIZE = re.compile(r"(\d+)(?:([KMG])(?:iB?)?|B)", re.ASCII)
_DIGITS = 18
"""The most digits of a size. Metrics are floats, and a number that no float can hold would break a scrape."""
_BYTES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def parse_duration(value: object) -> float:
    """Seconds from `500ms`, `10s`, `1h30m`, `2d`.

    A bare number is refused: its unit would be a guess. Raises ValueError.
    """
    if not isinstance(value, str) or not _DURATION.fullmatch(value):
        meant = _respelt(value) if isinstance(value, str) else ""
        advice = f": write {meant}" if meant else ""
        raise ValueError(f"expected a duration like 500ms, 10s or 5m, got {shown(value)}{advice}")
    seconds = round(sum(float(count) * _SECONDS[unit] for count, unit in _PART.findall(value)), 6)
    if seconds == math.inf:
        raise ValueError(f"{shown(value)} is too long")
    return seconds


def _respelt(text: str) -> str:
    """`text` with units that are accepted: `5m` for `5 min`. Empty if it is no duration even so."""
    plain = _SPELT.sub(lambda part: part[1] + _units(part[2].lower()), text)
    return plain if len(plain) <= _DIGITS and _DURATION.fullmatch(plain) else ""


def _units(word: str) -> str:
    return word if word in _SECONDS else _LONG.get(word.removesuffix("s"), word)


def format_duration(seconds: float) -> str:
    """The text of a duration, in the largest unit that needs no fraction: `48h`, `90s`, `500ms`."""
    for unit in ("h", "m", "s", "ms"):
        count = round(seconds / _SECONDS[unit])
        if abs(seconds - count * _SECONDS[unit]) < _EXACT and (count or unit == "s"):
            return f"{count}{unit}"
    return f"{seconds:.6f}".rstrip("0") + "s"


def parse_size(value: object) -> int:
    """Bytes from `64KiB`, `256MiB`, `512B`. A bare number is refused. Raises ValueError.

    `256M` and `256Mi` are the same, as `MemoryMax=256M` is to systemd and `256Mi` to Kubernetes. `256MB` is
    refused: it may be 256 million, which is 5 % less.
    """
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if not match:
        raise ValueError(f"expected a size like 64KiB or 256MiB, got {shown(value)}")
    if len(match[1]) > _DIGITS:
        raise ValueError(f"{shown(value)} is too large")
    return int(match[1]) * _BYTES[match[2] or ""]


def format_size(size: int) -> str:
    """The text of a size, in the largest unit that needs no fraction: `1MiB`, `1536KiB`."""
    for unit in "GMK":
        if size and size % _BYTES[unit] == 0:
            return f"{size // _BYTES[unit]}{unit}iB"
    return f"{size}B"
