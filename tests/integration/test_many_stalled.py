"""A thousand clients request a lot and read nothing: their memory is bounded, and other clients
are served.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from proxy.runtime.endpoint import Endpoint
from proxy.ssh.planes import DATA_PLANE
from tests.integration.test_byte_path import eventually, rss, start
from tests.support.echo import Source, exchange, pattern
from tests.support.sshd import Sshd

pytestmark = pytest.mark.sshd

READERS = 1000
MEMORY = 64 << 20
BOUND = MEMORY + READERS * (16 << 10)
"""Bytes of a connection besides its data: the budget is for data alone."""
EACH = 400_000
"""Bytes that each client requests: more than its channel's window and the kernel's buffers hold, but little
enough for sshd's memory.
"""


def stalled(mapped: Endpoint) -> socket.socket:
    """A client that reads nothing.

    Its segments are small, so that the kernel's buffer at the daemon stays small; otherwise it grows to 2.6
    MB.
    """
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1400)
    client.settimeout(60)
    client.connect(mapped)
    client.sendall(b"%d\n" % EACH)
    return client


async def test_a_thousand_stalled_readers_stay_within_the_memory_and_others_go_on(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATA_PLANE, "native")
    async with AsyncExitStack() as stack:
        source = await stack.enter_async_context(Source())
        limits = {"memory": f"{MEMORY >> 20}MiB", "max_connections": READERS + 100}
        daemon, (mapped,) = await start(stack, sshd, tmp_path, source, **limits)
        await exchange(mapped, b"8000000\n")
        before = rss(daemon)
        for _ in range(READERS):
            stack.callback((await asyncio.to_thread(stalled, mapped)).close)
        await eventually("all stall", lambda: daemon.metric("kubemux_paused_relays") == READERS, 60)
        assert daemon.metric("kubemux_buffered_bytes") <= MEMORY
        assert rss(daemon) - before <= BOUND
        for size in (1_000_000, 16_000_000):
            assert await exchange(mapped, b"%d\n" % size, seconds=120) == pattern(size)
        await eventually("all stall still", lambda: daemon.metric("kubemux_paused_relays") == READERS, 60)
        assert rss(daemon) - before <= BOUND
