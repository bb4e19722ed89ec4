"""Buffers that links share. A link acquires one for a turn of the loop, or until the kernel has taken the
content.

A link that neither sends nor receives has no buffer: two buffers for each link took 40 MB with a hundred
gateways. A few buffers in constant use also stay in the CPU's cache.
"""

from __future__ import annotations

from typing import Final

NONE: Final = memoryview(bytearray())
"""Stands for no buffer: it has no room."""

_SPARES: Final = 4


class Pool:
    """Buffers of `size` bytes."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.spares: list[memoryview] = []

    def acquire(self) -> memoryview:
        """A buffer, which may contain old bytes."""
        return self.spares.pop() if self.spares else memoryview(bytearray(self.size))

    def release(self, buffer: memoryview) -> None:
        """Release `buffer`, which must have no views. A buffer of another size is dropped: it is not ours."""
        if len(self.spares) < _SPARES and len(buffer) == self.size:
            self.spares.append(buffer)


RECEIVED: Final = Pool(160 << 10)
"""Room for three full packets of the peer and a part of the next. A stalled client may keep such a buffer."""

SENT: Final = Pool(288 << 10)
"""Room for eight full packets, which `proxy.ssh.native.sending` reads at once, and small ones."""
