"""What the daemon's log says of connections that ended badly, for the message of a failed test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from tests.support.files import whole_lines

_WELL: Final = {"client_closed", "cluster_closed"}


def bad_ends(log: Path) -> str:
    """The lines of this log about connections that were refused or cut, and about starts and stops."""
    lines = [line for line in whole_lines(log) if line.startswith("{")]
    return "\n".join(line for line in lines if _is_told(json.loads(line)))


def _is_told(entry: dict[str, object]) -> bool:
    if entry["event"] in {"connection refused", "connection closed"}:
        return entry["reason"] not in _WELL
    return entry["event"] in {"started", "stopping", "stopped", "link lost"}
