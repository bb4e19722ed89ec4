"""Makes a forked Python process the same as an executed one."""

from __future__ import annotations

import fcntl
import os
import resource
import sys
from typing import Final, TypedDict

PIPES: Final = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
"""The names that `subprocess.Popen` has for the ends of a child's pipes."""


class Order(TypedDict):
    """A description of the process to fork. Its descriptors are sent beside it."""

    words: list[str]
    environment: dict[str, str]
    folder: str
    files: tuple[int, int]
    """The soft and hard limit of open files."""
    descriptors: list[int]
    """The numbers of the descriptors in the fork."""
    starts_session: bool


def become(order: Order, descriptors: list[int]) -> None:
    """Turn this process into the described one. `descriptors` are in the order of `order["descriptors"]`."""
    if order["starts_session"]:
        os.setsid()
    _arrange(dict(zip(order["descriptors"], descriptors, strict=True)))
    os.chdir(order["folder"])
    resource.setrlimit(resource.RLIMIT_NOFILE, order["files"])
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.argv[1:] = order["words"]
    sys.path[0] = order["folder"]
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        old = getattr(sys, name)
        stream = open(  # noqa: SIM115 - it stays open
            number,
            "w" if number else "r",
            buffering=1 if name == "stderr" else -1,
            encoding=old.encoding,
            errors=old.errors,
            newline="\n",
            closefd=False,
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _arrange(wanted: dict[int, int]) -> None:
    """Give each descriptor its number, and close all others."""
    above = max(*wanted, *wanted.values()) + 1
    copies = {number: fcntl.fcntl(descriptor, fcntl.F_DUPFD, above) for number, descriptor in wanted.items()}
    for number, copy in copies.items():
        os.dup2(copy, number)
    kept = sorted(wanted)
    for number, following in zip(kept, [*kept[1:], 1 << 20], strict=True):
        os.closerange(number + 1, following)
