"""Memory that a storm took goes back to the system."""

from __future__ import annotations

from pathlib import Path

from proxy.daemon.heap import WORTH_IT, Heap
from proxy.relay.budget import MemoryBudget

MiB = 1 << 20


def resident() -> int:
    """Bytes."""
    (line,) = [
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS:")
    ]
    return int(line.split()[1]) << 10


def test_what_is_free_below_something_small_goes_back() -> None:
    budget = MemoryBudget(256 * MiB, connections=100)
    heap = Heap(budget)
    pieces = [
        b"x" * (32 << 10) for _ in range(64 * MiB >> 15)
    ]  # as asyncssh keeps what a stalled client has not taken
    last = bytes(600)  # at the heap's end, for as long as the test lasts
    budget.charge(64 * MiB)
    heap.look()
    full = resident()
    pieces.clear()
    budget.give_back(64 * MiB)
    heap.look()
    assert full - resident() > 48 * MiB
    assert len(last) == 600


def test_little_changes_are_not_worth_a_look_at_the_whole_heap() -> None:
    budget = MemoryBudget(256 * MiB, connections=100)
    heap = Heap(budget)
    for _ in range(3):
        budget.charge(WORTH_IT - 1)
        heap.look()
        budget.give_back(WORTH_IT - 1)
        heap.look()
    assert heap._peak == WORTH_IT - 1  # never taken for a storm that is over
