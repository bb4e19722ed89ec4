"""Nothing of ours: how fast is this machine now? The parts are compared by it."""

from __future__ import annotations


def work() -> int:
    """What an interpreter does all day: calls, attributes, slices, a dictionary."""
    view, table = memoryview(bytearray(4096)), dict.fromkeys(range(64), 0)
    for number in range(200):
        table[number % 64] += len(view[number : number + 16])
    return len(table)
