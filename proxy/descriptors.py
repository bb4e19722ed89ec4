"""File descriptors: as many as the system lets us have, and some kept back from clients.

Out of descriptors, a daemon can neither dial a lost link, nor read a key, nor answer on its admin address: it would look
broken for reasons that have nothing to do with what it says. So clients get fewer than there are.
"""

from __future__ import annotations

import resource
import sys
from typing import Final

RESERVED: Final = 100
"""Links, listeners, probes, admin connections, files being read. Listeners beyond the first fifty come on top."""


def raise_limit() -> int:
    """Raise the soft limit to the hard one (systemd's advice for programs without select(2)), and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return sys.maxsize if hard == resource.RLIM_INFINITY else hard


def for_clients(limit: int, listeners: int) -> int:
    """How many clients `limit` descriptors are enough for, at one each."""
    return max(1, limit - RESERVED - max(0, listeners - RESERVED // 2))
