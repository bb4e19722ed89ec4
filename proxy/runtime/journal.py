"""Priorities for the journal: `<3>gateway down` on a stream that leads there (sd-daemon(3),
SyslogLevelPrefix=).

The journal removes the prefix: `journalctl -p warning` finds warnings and errors, and the entry is stored as
it was written.
"""

from __future__ import annotations

import os
from typing import Final, TextIO

PRIORITIES: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
"""Our levels as syslog(3) counts them."""


def reads(stream: TextIO | None) -> bool:
    """Whether the journal itself reads `stream`: `$JOURNAL_STREAM` names its device and inode, and children
    inherit that.
    """
    if stream is None:
        return False
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):  # no descriptor behind it, or closed
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def marked(text: str, level: str) -> str:
    """`text` with the priority of `level` before each of its lines: the journal makes an entry of each."""
    prefix = f"<{PRIORITIES[level]}>"
    return prefix + text.replace("\n", f"\n{prefix}")
