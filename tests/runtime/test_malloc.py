"""Memory that is released after a peak is returned to the system."""

from __future__ import annotations

from pathlib import Path

from proxy.runtime.malloc import WORTH_IT, Trim

MiB = 1 << 20


def resident() -> int:
    """Bytes."""
    (line,) = [
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS:")
    ]
    return int(line.split()[1]) << 10


def test_trim_returns_free_memory_below_a_live_block_to_the_kernel() -> None:
    used = 0
    trim = Trim(lambda: used)
    pieces = [b"x" * (32 << 10) for _ in range(64 * MiB >> 15)]  # like asyncssh's buffers for stalled clients
    last = bytes(600)  # stays at the end of the heap during the test
    used = 64 * MiB
    trim.check()
    full = resident()
    pieces.clear()
    used = 0
    trim.check()
    assert full - resident() > 48 * MiB
    assert len(last) == 600


def test_small_changes_do_not_count_as_released_memory() -> None:
    used = 0
    trim = Trim(lambda: used)
    for _ in range(3):
        used = WORTH_IT - 1
        trim.check()
        used = 0
        trim.check()
    assert trim._peak == WORTH_IT - 1  # never counts as released memory
