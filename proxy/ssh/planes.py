"""Chooses the data plane of a link: the first in a list that can carry the link."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from proxy.relay.budget import MemoryBudget
from proxy.ssh.data_plane import DataPlane, PlaneUser, Unsupported
from proxy.ssh.fallback.asyncssh_plane import AsyncsshPlane
from proxy.ssh.internals import Connection
from proxy.ssh.native.native_plane import NativePlane
from proxy.ssh.turns import Turns

log = structlog.get_logger("kubemux.link")

DATA_PLANE: Final = "KUBEMUX_DATA_PLANE"
"""Environment variable with the mode to try first. Without it, that is the first in `_PLANES`."""

Make = Callable[[Connection, MemoryBudget, Turns, PlaneUser], DataPlane]


def _native(conn: Connection, budget: MemoryBudget, turns: Turns, link: PlaneUser) -> DataPlane:
    return NativePlane(
        conn,
        budget,
        turns,
        on_error=link.protocol_broken,
        on_lost=link.lost,
        on_ended=link.channel_ended,
        on_request=link.on_open,
        on_refused=link.on_refused,
        limit=link.limit,
    )


def _asyncssh(conn: Connection, budget: MemoryBudget, turns: Turns, link: PlaneUser) -> DataPlane:
    del turns  # asyncssh writes each packet at once
    return AsyncsshPlane(
        conn,
        budget,
        server=link.server,
        name=link.name,
        why_ended=lambda: link.error,
        on_ended=link.channel_ended,
        on_request=link.on_open,
        on_refused=link.on_refused,
        limit=link.limit,
    )


_PLANES: Final[Mapping[str, Make]] = {"native": _native, "asyncssh": _asyncssh}
"""The planes by mode, the fastest first. The last one can carry every connection."""

MODES: Final = tuple(_PLANES)


def take_over(conn: Connection, budget: MemoryBudget, turns: Turns, link: PlaneUser) -> DataPlane:
    """Make the data plane that carries `conn` from now on."""
    asked = os.environ.get(DATA_PLANE, "")
    *faster, last = MODES[MODES.index(asked) if asked in MODES else 0 :]
    for mode in faster:
        try:
            return _PLANES[mode](conn, budget, turns, link)
        except Unsupported as exc:
            # The clients of our SSH server choose the cipher: there is nothing to mend here.
            say = log.info if link.on_open else log.warning
            say("link uses asyncssh's own channels", link=link.name, server=link.server, message=str(exc))
    return _PLANES[last](conn, budget, turns, link)
