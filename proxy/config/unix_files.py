"""Checks that this machine has the folders and groups that the unix sockets of a configuration need."""

from __future__ import annotations

import errno
import grp
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from proxy.config import unix_sockets
from proxy.config.findings import Finding, Loc
from proxy.config.model import ClusterConfig, Config, EntryConfig
from proxy.runtime.blocking import doing
from proxy.runtime.endpoint import UnixPath
from proxy.runtime.text import shown

OF_OTHERS: Final = Path("/run/kubemux-entries")
"""The folder for sockets that other users may open; kubemux.service makes it at its start."""
_MADE_BY_UNIT: Final = frozenset({OF_OTHERS, Path("/run/kubemux")})

_NO_GID: Final = 2**32 - 1
"""(gid_t) -1, with which chown(2) does not change the group."""
_DIGITS: Final = 10


def gid_of(group: str) -> int:
    """The number of a group. Raises KeyError if there is none of that name. Blocks."""
    if group.isascii() and group.isdecimal():
        if len(group) > _DIGITS or int(group) >= _NO_GID:
            raise KeyError(group)
        return int(group)
    doing(f"looking up the group {group}")
    return grp.getgrnam(group).gr_gid


def check(loc: Loc, section: ClusterConfig | EntryConfig) -> Iterator[Finding]:
    """What this machine lacks for the unix socket of the section at `loc`. Blocks."""
    if not isinstance(section.listen, UnixPath):
        return
    folder = Path(section.listen.path).parent
    if folder not in _MADE_BY_UNIT and (message := _lacks(folder)):
        hint = f"create it, or take {OF_OTHERS}, which kubemux.service creates"
        yield Finding((*loc, "listen"), message, hint)
    if section.group is not None:
        try:
            gid_of(section.group)
        except KeyError:
            message = f"there is no group {shown(section.group)} on this machine"
            yield Finding((*loc, "group"), message, f"groupadd --system {section.group}, or name another")


def in_the_way(config: Config) -> Iterator[Finding]:
    """Warnings of other files at the path of a unix socket. The daemon starts nevertheless, and binds the
    socket when the file is gone. Blocks.
    """
    for loc, section in unix_sockets.listening(config):
        if not isinstance(section.listen, UnixPath):
            continue
        path = Path(section.listen.path)
        try:
            is_socket = stat.S_ISSOCK(path.lstat().st_mode)
        except OSError:  # nothing is there, or this user may not see it
            continue
        if not is_socket:
            message = f"something is at {path} that is not a socket: nobody can connect there"
            yield Finding((*loc, "listen"), message, "look at it and remove it, or choose another path")


def _lacks(folder: Path) -> str:
    """What is wrong with the folder of a socket; empty if it is usable, or if this user may not see it."""
    doing(f"looking at {folder}")
    try:
        is_folder = stat.S_ISDIR(folder.stat().st_mode)
    except PermissionError:
        return ""
    except OSError as exc:
        return f"{folder} does not exist" if exc.errno == errno.ENOENT else f"{folder}: {exc.strerror}"
    return "" if is_folder else f"{folder} is not a folder"
