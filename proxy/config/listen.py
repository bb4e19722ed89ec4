"""Addresses of listeners, written `127.0.0.1:3128` or `unix:/run/kubemux-entries/egress.sock`, and the
permissions of unix sockets.
"""

from __future__ import annotations

import os
import re
from typing import Annotated, Final, NamedTuple

from proxy.config.file_paths import expand_path
from proxy.config.written import Written, from_text
from proxy.runtime.endpoint import Endpoint, Local, UnixPath
from proxy.runtime.text import shown

UNIX: Final = "unix:"
LONGEST: Final = 107
"""The maximum length of a path in bytes: `sun_path` of unix(7) has 108 bytes, and the last one is 0."""

OWNER_ONLY: Final = 0o600
_MODE: Final = re.compile(r"0?[0-7]{3}", re.ASCII)


class Permissions(NamedTuple):
    """The mode and group of a unix socket's file, which decide who may connect."""

    mode: int = OWNER_ONLY
    group: str | None = None
    """A group's name or number; None: the default group of a new file."""

    @classmethod
    def of(cls, mode: int | None, group: str | None) -> Permissions:
        """The permissions that the keys `mode` and `group` mean."""
        return cls(OWNER_ONLY if mode is None else mode, group)


PRIVATE: Final = Permissions()


def parse_listen(value: object) -> Local:
    """`HOST:PORT`, or `unix:` and an absolute path. Raises ValueError."""
    if isinstance(value, UnixPath):
        return value
    if isinstance(value, str) and value.startswith("/"):
        raise ValueError(f"a path needs {UNIX} before it, got {shown(value)}")
    if isinstance(value, str) and value.startswith(UNIX):
        return _unix(value.removeprefix(UNIX))
    return from_text(Endpoint, 'HOST:PORT or "unix:/PATH"')(value)


def _unix(written: str) -> UnixPath:
    path = "/" + str(expand_path(written)).lstrip("/")
    if path == "/":
        raise ValueError(f"expected the path of a file behind {UNIX}")
    if (length := len(os.fsencode(path))) > LONGEST:
        raise ValueError(f"the path has {length} bytes, and the kernel takes {LONGEST} at most")
    return UnixPath(path)


def parse_mode(value: object) -> int:
    """The mode of a file from `"0660"`. Raises ValueError."""
    if not isinstance(value, str) or not _MODE.fullmatch(value):
        raise ValueError(f'expected three octal digits in quotes, like "0660", got {shown(value)}')
    return int(value, 8)


def format_mode(mode: int) -> str:
    return f"{mode:04o}"


MODE: Final = (
    "The mode of the unix socket's file: users who may write to it may connect. If a socket unit makes the "
    "socket, the unit's mode applies."
)
GROUP: Final = "The group of the unix socket's file, by name or number."

Listen = Annotated[Local, Written(parse_listen, r"^(.+:[0-9]{1,5}|unix:[/~$].*)$")]
"""The address of a listener: HOST:PORT or unix:/PATH."""

Mode = Annotated[int, Written(parse_mode, r"^0?[0-7]{3}$", format_mode)]
"""The mode of a file, in octal digits."""
