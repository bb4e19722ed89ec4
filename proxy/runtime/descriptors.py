"""File descriptors: use as many as the system allows, and keep some back from clients.

Without a free descriptor the daemon could not dial a lost link, read a key or answer on its admin address.
The errors would then name the wrong cause. So clients get fewer descriptors than there are: `for_clients` is
their number. `are_scarce` stops accepting if that was still too many, because a client of a `direct` cluster
takes two.
"""

from __future__ import annotations

import os
import resource
import sys
from contextlib import suppress
from typing import Final

RESERVED: Final = 100
"""For listeners, links, probes, admin connections and files.

Listeners and links after the first fifty are counted on top.
"""


def raise_limit() -> int:
    """Raise the soft limit to the hard one, and return it.

    systemd advises that for programs that do not use select(2).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return sys.maxsize if hard == resource.RLIM_INFINITY else hard


def for_clients(limit: int, taken: int) -> int:
    """How many clients `limit` descriptors are enough for, at one each.

    `taken` is the number of listeners and links.
    """
    return max(1, limit - RESERVED - max(0, taken - RESERVED // 2))


def is_high(fd: int) -> bool:
    """Whether the new descriptor `fd` is one of those kept back. The kernel gives the lowest free number."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return soft != resource.RLIM_INFINITY and fd >= soft - min(RESERVED, soft // 2)


def are_scarce(fd: int) -> bool:
    """Whether the next descriptor would be one of those kept back. `fd` is any open descriptor."""
    with suppress(OSError):
        copy = os.dup(fd)
        os.close(copy)
        return is_high(copy)
    return True
