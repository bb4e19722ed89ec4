"""Priorities for the journal: `<3>gateway down` (sd-daemon(3), SyslogLevelPrefix=).

The journal removes the prefix. `journalctl -p warning` then finds warnings and errors.
"""

from __future__ import annotations

import os
from typing import Final, TextIO

PRIORITIES: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
"""Our levels as numbers of syslog(3)."""


def reads(stream: TextIO | None) -> bool:
    """Whether `stream` is connected to the journal.

    `$JOURNAL_STREAM` has the device and inode of that stream. Children inherit the variable even if their
    stream is another one, so both are compared.
    """
    if stream is None:
        return False
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):  # it has no descriptor, or is closed
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def marked(text: str, level: str) -> str:
    """`text` with the priority of `level` before each line, because the journal makes an entry of each."""
    prefix = f"<{PRIORITIES[level]}>"
    return prefix + text.replace("\n", f"\n{prefix}")
