"""A fuzzer's bytes, read as decisions: a byte that is changed changes one of them, and most inputs mean
something.
"""

from __future__ import annotations


class Choices:
    """Decisions without an end: after the last byte every decision is zero, and `is_over` is true."""

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
        """Yes or no; mostly no."""
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
        """That many bytes: a few chosen ones, and zeros, so that big packets need no big input."""
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
