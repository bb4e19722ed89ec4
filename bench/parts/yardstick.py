"""Work without code of kubemux, which shows how fast this machine is now. The parts are compared with it."""

from __future__ import annotations


def work() -> int:
    """Do what Python code does most often: calls, attributes, slices, a dictionary."""
    view, table = memoryview(bytearray(4096)), dict.fromkeys(range(64), 0)
    for number in range(200):
        table[number % 64] += len(view[number : number + 16])
    return len(table)
