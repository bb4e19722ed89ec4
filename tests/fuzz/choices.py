"""Reads a fuzzer's bytes as decisions. One changed byte changes one decision, and nearly every input is
valid.
"""

from __future__ import annotations


class Choices:
    """An endless sequence of decisions: after the last byte, every decision is 0 and `is_over` is true."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def is_over(self) -> bool:
        """Whether every byte has been read."""
        return self._at >= len(self._data)

    def below(self, limit: int) -> int:
        """A number from 0 to `limit` - 1, at most 256 of them."""
        return self._take(1)[0] % limit

    def flag(self) -> bool:
        """True or false; mostly false."""
        return self.below(4) == 1

    def uint32(self) -> int:
        """A number of 32 bits. Small ones and the largest are as likely as all others together."""
        kind = self.below(4)
        if kind < 2:
            return self.below(256)
        return int.from_bytes(self._take(4)) if kind == 2 else 0xFFFFFFFF - self.below(256)

    def size(self, largest: int) -> int:
        """A number from 0 to `largest`: mostly small, and at times close to `largest`."""
        return min(largest, self.below(200)) if not self.flag() else max(0, largest - self.below(256))

    def content(self, size: int) -> bytes:
        """`size` bytes: a few from the input, then zeros, so that large packets need no large input."""
        chosen = self._take(min(size, 16))
        return chosen + bytes(size - len(chosen))

    def rest(self) -> bytes:
        """The bytes that have not been read."""
        rest, self._at = self._data[self._at :], len(self._data)
        return rest

    def _take(self, count: int) -> bytes:
        taken = self._data[self._at : self._at + count]
        self._at += count
        return taken + bytes(count - len(taken))
