"""Buffers that links have for a turn of the loop, or for as long as the kernel takes: one link's is the next one's.

A link that has nothing to say or to hear has no buffer: two each were 40 MB for a hundred gateways. What is handed around
among a few stays in a core's cache, too.
"""

from __future__ import annotations

from typing import Final

SIZE: Final = 160 << 10
"""Bytes: four full packets of ours, two of the gateway's."""

NONE: Final = memoryview(bytearray())
"""In place of a buffer: it has no room."""

_SPARES: Final = 4
_spares: list[memoryview] = []


def take() -> memoryview:
    """A buffer of SIZE bytes, with whatever is in it."""
    return _spares.pop() if _spares else memoryview(bytearray(SIZE))


def give(buffer: memoryview) -> None:
    """Back, when nobody has a view of it any more."""
    if len(_spares) < _SPARES and len(buffer) == SIZE:
        _spares.append(buffer)
