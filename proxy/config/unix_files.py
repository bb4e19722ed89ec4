"""Whether this machine has what the unix sockets of a configuration need: the folder, and the group."""

from __future__ import annotations

import grp
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from proxy.config.findings import Finding, Loc
from proxy.config.model import ClusterConfig, EntryConfig
from proxy.runtime.blocking import doing
from proxy.runtime.endpoint import UnixPath
from proxy.runtime.text import shown

OF_OTHERS: Final = Path("/run/kubemux-entries")
"""kubemux.service makes it when it starts: for sockets that others may open."""
_MADE_BY_UNIT: Final = frozenset({OF_OTHERS, Path("/run/kubemux")})


def gid_of(group: str) -> int:
    """The number of a group. Raises KeyError if there is none of that name. Blocks."""
    if group.isascii() and group.isdecimal():
        return int(group)
    doing(f"looking up the group {group}")
    return grp.getgrnam(group).gr_gid


def check(loc: Loc, section: ClusterConfig | EntryConfig) -> Iterator[Finding]:
    """What this machine lacks for the unix socket of the section at `loc`. Blocks."""
    if not isinstance(section.listen, UnixPath):
        return
    folder = Path(section.listen.path).parent
    doing(f"looking at {folder}")
    if folder not in _MADE_BY_UNIT and not folder.is_dir():
        message = f"{folder} does not exist" if not folder.exists() else f"{folder} is not a folder"
        hint = f"create it, or take {OF_OTHERS}, which kubemux.service creates"
        yield Finding((*loc, "listen"), message, hint)
    if section.group is not None:
        try:
            gid_of(section.group)
        except KeyError:
            message = f"there is no group {shown(section.group)} on this machine"
            yield Finding((*loc, "group"), message, f"groupadd --system {section.group}, or name another")
