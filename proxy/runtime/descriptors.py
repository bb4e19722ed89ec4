"""File descriptors: use as many as the system allows, and reserve some that clients cannot use.

Without a free descriptor the daemon could not dial a lost link, read a key, or answer on its admin address,
and its errors would name the wrong cause. So `for_clients` computes how many clients there may be. That may
still be too many, because a client of a `direct` cluster uses two descriptors: while `are_scarce` is true, no
client is accepted.
"""

from __future__ import annotations

import os
import resource
import sys
from contextlib import suppress
from typing import Final

RESERVED: Final = 100
"""Descriptors for listeners, links, probes, admin connections and files.

It is enough for fifty listeners and links; `for_clients` adds the others.
"""


def raise_limit() -> int:
    """Raise the soft limit to the hard limit, and return it.

    systemd.exec(5) recommends that for programs that do not use select(2).
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
    """Whether the new descriptor `fd` is a reserved one. The kernel always returns the lowest free number."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return soft != resource.RLIM_INFINITY and fd >= soft - min(RESERVED, soft // 2)


def are_scarce(fd: int) -> bool:
    """Whether the next descriptor would be a reserved one. `fd` is any open descriptor."""
    with suppress(OSError):
        copy = os.dup(fd)
        os.close(copy)
        return is_high(copy)
    return True
