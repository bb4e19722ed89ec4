"""File descriptors: as many as the system lets us have, and some kept back from clients.

Out of descriptors, a daemon can neither dial a lost link, nor read a key, nor answer on its admin address: it
would look broken for reasons that have nothing to do with what it says. So clients get fewer than there are:
`for_clients` is the number to go by, and `are_scarce` stops accepting where that was not enough (a client of
a `direct` cluster takes two).
"""

from __future__ import annotations

import os
import resource
import sys
from contextlib import suppress
from typing import Final

RESERVED: Final = 100
"""Listeners, links, probes, admin connections, files being read.

Listeners and links beyond the first fifty come on top.
"""


def raise_limit() -> int:
    """Raise the soft limit to the hard one (systemd's advice for programs without
    select(2)), and return it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return sys.maxsize if hard == resource.RLIM_INFINITY else hard


def for_clients(limit: int, taken: int) -> int:
    """How many clients `limit` descriptors are enough for, at one each, beside the `taken` ones of listeners
    and links.
    """
    return max(1, limit - RESERVED - max(0, taken - RESERVED // 2))


def is_high(fd: int) -> bool:
    """Whether `fd`, just opened, is one of those kept back: the kernel opens the lowest free number."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return soft != resource.RLIM_INFINITY and fd >= soft - min(RESERVED, soft // 2)


def are_scarce(fd: int) -> bool:
    """Whether the next descriptor would be one of those kept back. `fd` is any that is open."""
    with suppress(OSError):
        copy = os.dup(fd)
        os.close(copy)
        return is_high(copy)
    return True
