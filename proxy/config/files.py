"""Reads a file of limited size.

This blocks, like everything in `proxy/config`. Code on the event loop calls it through a
`proxy.runtime.blocking.Place`.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

from proxy.runtime.blocking import doing

MAX_CREDENTIAL_BYTES = 1 << 20
"""For keys, certificates and tokens. None of them is nearly as large."""

MAX_KNOWN_HOSTS_BYTES = 64 << 20
"""About 600,000 lines. In large fleets a file has 20,000 lines (2 MiB)."""


class Unusable(Exception):
    """A file cannot be read. `str()` says why, without the file's name; `hint` says what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class Denied(Unusable):
    """The user of this process may not read the file, or may not enter its folder."""


class Unread(Unusable):
    """Reading has failed because of this machine, for example a broken disk or too many open files. That says
    nothing about the file.
    """


_OF_PATH: Final = frozenset({errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})
"""Errors of the path, not of this machine."""


def read_bytes(path: Path, *, limit: int) -> tuple[bytes, os.stat_result]:
    """The contents of a regular file of at most `limit` bytes, and the status of the opened file.

    Raises Unusable. The size is checked before reading and again after it: the file may grow, and files in
    /proc have the size 0.
    """
    doing(f"reading {path}")
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise Unusable("is not a regular file", "give the path of a file")
            data = file.read(limit + 1) if status.st_size <= limit else b""
    except FileNotFoundError as exc:
        raise Unusable("does not exist", "check the spelling, or create it") from exc
    except IsADirectoryError as exc:
        raise Unusable("is a directory", "give the path of a file") from exc
    except PermissionError as exc:
        raise Denied(
            "may not be read by this user",
            f"let this user (uid {os.geteuid()}) read it, if kubemux runs as it; if not, use sudo",
        ) from exc
    except ValueError as exc:  # a NUL in the path
        raise Unusable(f"cannot be read: {exc}", "check the path") from exc
    except OSError as exc:
        message = f"cannot be read: {exc.strerror}"
        if exc.errno in _OF_PATH:
            raise Unusable(message, "check the path") from exc
        raise Unread(message, "the file may be good: look at this machine, its disks and its limits") from exc
    if status.st_size > limit or len(data) > limit:
        raise Unusable(f"is larger than {limit >> 10} KiB", "is it the right file?")
    return data, status


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # otherwise opening a FIFO waits until somebody writes to it
