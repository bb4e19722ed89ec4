"""Buffers that links have for a turn of the loop, or for as long as the kernel takes: one link's is the next
one's.

A link that has nothing to say or to hear has no buffer: two each were 40 MB for a hundred gateways. What is
handed around among a few stays in a core's cache, too.
"""

from __future__ import annotations

from typing import Final

NONE: Final = memoryview(bytearray())
"""In place of a buffer: it has no room."""

_SPARES: Final = 4


class Pool:
    """Buffers of `size` bytes."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.spares: list[memoryview] = []

    def acquire(self) -> memoryview:
        """One, with whatever is in it."""
        return self.spares.pop() if self.spares else memoryview(bytearray(self.size))

    def release(self, buffer: memoryview) -> None:
        """Back, when nobody has a view of it any more. One of another size was not from here."""
        if len(self.spares) < _SPARES and len(buffer) == self.size:
            self.spares.append(buffer)


RECEIVED: Final = Pool(160 << 10)
"""Three full packets of the gateway's, and what has come of the next. A client that stalls may keep one."""

SENT: Final = Pool(288 << 10)
"""Eight full packets of ours, what `proxy.ssh.native.sending` reads at once, and some small ones."""
