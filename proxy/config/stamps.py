"""Whether a file may have changed, without reading it."""

from __future__ import annotations

from pathlib import Path

from proxy.config.references import Section, paths
from proxy.runtime.blocking import doing

Stamp = tuple[int, int, int, int]


def stamps_of(section: Section) -> dict[Path, Stamp | None]:
    """Inode, size, mtime and ctime (ns) of each file; None if it does not exist.

    Reading them is cheap. If a file has changed, they differ.
    """
    return {path: _stamp(path) for path in paths(section)}


def _stamp(path: Path) -> Stamp | None:
    doing(f"looking at {path}")  # shown to the user if it hangs
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
