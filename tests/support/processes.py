"""Processes as /proc shows them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def children(parent: int) -> set[int]:
    """The process ids of the direct children of `parent`, zombies included."""
    found = set()
    # Not "[0-9]*/stat": glob asks whether that is there, and fails if the process ends meanwhile.
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended while we looked
            # The command in parentheses may hold anything; the parent is the second field after it (proc(5)).
            if int((process / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.add(int(process.name))
    return found


def descendants(parent: int) -> set[int]:
    """The children of `parent`, theirs, and so on."""
    found = children(parent)
    for child in list(found):
        found |= descendants(child)
    return found


def command(pid: int) -> str:
    """How the process was called, its name if it is a zombie, empty if it is gone."""
    with suppress(OSError):
        folder = Path(f"/proc/{pid}")
        return (folder / "cmdline").read_text().replace("\0", " ").strip() or (
            folder / "comm"
        ).read_text().strip()
    return ""
