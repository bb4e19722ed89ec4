"""Buffers that a link uses for a turn of the loop, or until the kernel has taken their content.

After that another link uses them. A link that neither sends nor receives has no buffer: two for each link
took 40 MB with a hundred gateways. A few buffers in constant use also stay in the CPU's cache.
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
        """A buffer, with whatever is in it."""
        return self.spares.pop() if self.spares else memoryview(bytearray(self.size))

    def release(self, buffer: memoryview) -> None:
        """Nobody has a view of `buffer` any more. One of another size is not of this pool."""
        if len(self.spares) < _SPARES and len(buffer) == self.size:
            self.spares.append(buffer)


RECEIVED: Final = Pool(160 << 10)
"""Room for three full packets of the gateway's and a part of the next. A client that stalls may keep one."""

SENT: Final = Pool(288 << 10)
"""Room for eight full packets of ours, which `proxy.ssh.native.sending` reads at once, and small ones."""
