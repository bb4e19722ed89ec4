"""Processes as /proc shows them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def children(parent: int) -> set[int]:
    """The process ids of the direct children of `parent`, zombies included."""
    found = _children(parent)
    # A child that ends during the read can hide another one (proc(5)), so read until two reads agree.
    while (again := _children(parent)) != found:
        found = again
    return found


def _children(parent: int) -> set[int]:
    found: set[int] = set()
    with suppress(OSError):  # the parent has ended
        # Each test asks a few times, and pathlib takes three times as long.
        for thread in os.listdir(f"/proc/{parent}/task"):  # noqa: PTH208
            with (
                suppress(OSError),  # it has ended while we looked
                open(f"/proc/{parent}/task/{thread}/children") as pids,  # noqa: PTH123
            ):
                found.update(map(int, pids.read().split()))
    return found


def descendants(parent: int) -> set[int]:
    """The process ids of all descendants of `parent`."""
    found = children(parent)
    for child in list(found):
        found |= descendants(child)
    return found


def has_ended(pid: int) -> bool:
    """Whether the process is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:  # ProcessLookupError, if it ends while we read
        return True
    return stat.rpartition(")")[2].split()[0] in {"Z", "X"}


def command(pid: int) -> str:
    """The command line of the process; its name if it is a zombie, empty if there is no such process."""
    with suppress(OSError):
        folder = Path(f"/proc/{pid}")
        return (folder / "cmdline").read_text(errors="replace").replace("\0", " ").strip() or (
            folder / "comm"
        ).read_text(errors="replace").strip()
    return ""
