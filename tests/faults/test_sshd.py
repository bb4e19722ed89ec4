"""Faults of a gateway's sshd."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest

from tests.faults.bed import Bed
from tests.faults.row import REFUSED, RESET, Row, Step, nothing
from tests.support.faulty import Direction
from tests.support.https import Answer

pytestmark = pytest.mark.sshd

IMPATIENT = {"keepalive": {"interval": "500ms", "max_missed": 3}}
"""Keys for a gateway whose silence kubemux notices after 1.5 s. A busy machine rarely stops a process for so
long. A dial has as much time as a user's: it is answered when the silence ends.
"""
LINK_LOST = frozenset({"link_lost"})
LINK_DOWN = frozenset({"link_down"})
"""What a client sees that waited for a link longer than hold_timeout."""


async def kill(bed: Bed) -> None:
    await asyncio.to_thread(bed.edge.stop)


async def kill_listener(bed: Bed) -> None:
    await asyncio.to_thread(bed.edge.kill_listener)


async def start(bed: Bed) -> None:
    await asyncio.to_thread(bed.edge.start)


async def freeze(bed: Bed) -> None:
    await asyncio.to_thread(bed.edge.pause)


async def thaw(bed: Bed) -> None:
    await asyncio.to_thread(bed.edge.resume)


def restart_with(**config: str) -> Step:
    """Restart sshd with other sshd_config keywords; `restart_with()` removes them again."""

    async def step(bed: Bed) -> None:
        bed.edge.reconfigure(config)
        await asyncio.to_thread(bed.edge.restart)

    return step


async def change_host_key(bed: Bed) -> None:
    bed.edge.new_host_key()
    await asyncio.to_thread(bed.edge.restart)


async def trust_it(bed: Bed) -> None:
    bed.trust()
    await bed.reconnect()


async def revoke_key(bed: Bed) -> None:
    bed.edge.authorize()
    await asyncio.to_thread(bed.edge.restart)


async def authorize_key(bed: Bed) -> None:
    bed.edge.authorize(bed.edge.identity)
    await bed.reconnect()


async def occupy(bed: Bed) -> None:
    """Restart sshd with MaxStartups 1, and occupy that place with a client that never logs in."""
    await bed.path.refuse()
    bed.edge.reconfigure({"MaxStartups": "1:100:1", "LoginGraceTime": "120"})
    await asyncio.to_thread(bed.edge.restart)
    await asyncio.to_thread(_sit_down, bed)
    await bed.path.listen()


def _sit_down(bed: Bed) -> None:
    while True:
        intruder = socket.create_connection((bed.edge.host, bed.edge.port), timeout=60)
        if intruder.recv(4) == b"SSH-":
            return bed.keep(intruder)
        # "Exceeded MaxStartups": sshd still counts the connection that waited for its version line.
        intruder.close()


async def leave(bed: Bed) -> None:
    bed.let_go()


async def silence(bed: Bed) -> None:
    """Stall the direction to sshd: sshd receives nothing, kubemux still receives.

    The API servers are silent meanwhile, because sshd 9.2 keeps a dead client for 20 s and more as long as it
    has events to send to it.
    """
    for name in bed.hit:
        bed.apis[name].answer = Answer.SILENCE
    bed.path.stall(Direction.TO_SERVER)


async def speak(bed: Bed) -> None:
    for name in bed.hit:
        bed.apis[name].answer = Answer.OK
    bed.path.resume()


ROWS = (
    Row(
        name="sshd killed",
        breaks=kill,
        mends=start,
        clients=RESET,
        may_see=REFUSED,
        gateway="unreachable",
        lost="link_lost",
        results=LINK_LOST,
        may=LINK_DOWN,
    ),
    Row(name="sshd's listener killed, its sessions live", breaks=kill_listener, mends=start),
    Row(
        name="sshd stopped (SIGSTOP) and continued",
        breaks=freeze,
        mends=thaw,
        clients=RESET,
        may_see=REFUSED,
        gateway="keepalive_timeout",
        lost="keepalive_timeout",
        results=frozenset({"keepalive_timeout"}),
        may=LINK_DOWN,
        edge=IMPATIENT,
    ),
    Row(
        name="sshd restarted with another host key",
        breaks=change_host_key,
        mends=trust_it,
        clients=RESET,
        may_see=REFUSED,
        gateway="host_key_changed",
        lost="link_lost",
        results=LINK_LOST,
        may=LINK_DOWN,
    ),
    Row(
        name="key removed from authorized_keys",
        breaks=revoke_key,
        mends=authorize_key,
        clients=RESET,
        may_see=REFUSED,
        gateway="auth_failed",
        lost="link_lost",
        results=LINK_LOST,
        may=LINK_DOWN,
    ),
    Row(
        name="AllowTcpForwarding no",
        breaks=restart_with(AllowTcpForwarding="no"),
        mends=restart_with(),
        clients=RESET,
        may_see=REFUSED,
        lost="link_lost",
        results=LINK_LOST | {"channel_prohibited"},
        may=LINK_DOWN,
        probe="channel_prohibited",
    ),
    Row(
        name="PermitOpen elsewhere",
        breaks=restart_with(PermitOpen="127.0.0.1:1"),
        mends=restart_with(),
        clients=RESET,
        may_see=REFUSED,
        lost="link_lost",
        results=LINK_LOST | {"channel_prohibited"},
        may=LINK_DOWN,
        probe="channel_prohibited",
    ),
    Row(
        name="MaxStartups 1:100:1, and somebody in the way",
        breaks=occupy,
        mends=leave,
        clients=RESET,
        may_see=REFUSED,
        gateway="handshake_failed",
        lost="link_lost",
        results=LINK_LOST,
        may=LINK_DOWN,
        is_through_relay=True,
    ),
    Row(name="MaxSessions 0", breaks=nothing, sshd={"MaxSessions": "0"}),
    Row(
        name="ClientAliveInterval hit",
        breaks=silence,
        mends=speak,
        clients=RESET,
        may_see=REFUSED,
        gateway="link_lost",
        lost="link_lost",
        results=LINK_LOST,
        may=LINK_DOWN,
        is_through_relay=True,
        sshd={"ClientAliveInterval": "1", "ClientAliveCountMax": "1"},
    ),
)


async def test_row(proven: Callable[[], Awaitable[None]]) -> None:
    await proven()
