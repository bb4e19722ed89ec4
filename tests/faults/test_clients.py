"""Clients that behave badly. Other clients must not notice them, and the daemon keeps nothing of them."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Awaitable, Callable, Iterable

import pytest

from tests.faults.bed import Bed
from tests.faults.row import Hits, Row, Step, nothing
from tests.support.serving import closed

pytestmark = pytest.mark.sshd

SOME = 50
LARGE = 20_000_000
"""Bytes; more than all buffers on the way hold."""
AT_A_TIME = 50


async def visit(bed: Bed, count: int, *, first: bytes = b"") -> None:
    """Make `count` connections, send `first` on each, and keep them open."""
    loop = asyncio.get_running_loop()
    for _ in range(count):
        sock = socket.socket()
        bed.keep(sock)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await loop.sock_connect(sock, bed.plain)
        bed.visitors += 1
        if first:
            await loop.sock_sendall(sock, first)


async def wait_visitors(bed: Bed, wanted: int) -> None:
    await bed.wait_for(
        f"{wanted} visitors",
        lambda: bed.daemon.metric("kubemux_connections_active", cluster="plain") == wanted,
        seconds=60,
    )


async def vanish(bed: Bed) -> None:
    bed.let_go(hard=True)
    await wait_visitors(bed, 0)


async def vanish_while_opening(bed: Bed) -> None:
    """Leave before the channel is open: sshd is frozen meanwhile."""
    await asyncio.to_thread(bed.edge.pause)
    try:
        await visit(bed, SOME)
        await wait_visitors(bed, SOME)
        bed.let_go(hard=True)
    finally:
        await asyncio.to_thread(bed.edge.resume)
    await wait_visitors(bed, 0)


async def vanish_in_request(bed: Bed) -> None:
    await visit(bed, SOME, first=b"12")  # no newline: the server waits for the rest
    await bed.source.wait_accepted(SOME)
    await vanish(bed)


async def vanish_in_download(bed: Bed) -> None:
    await visit(bed, SOME, first=b"%d\n" % LARGE)
    loop = asyncio.get_running_loop()
    for sock in bed.kept:
        await loop.sock_recv(sock, 4096)
    await vanish(bed)


async def never_read(bed: Bed) -> None:
    """Clients that never read: in the end, each is paused, or its link was lost (in a soak)."""
    await visit(bed, SOME, first=b"%d\n" % LARGE)

    def are_held() -> bool:
        ended = bed.daemon.metric("kubemux_connections_total", cluster="plain")
        active = bed.daemon.metric("kubemux_connections_active", cluster="plain")
        return ended + active == bed.visitors and bed.daemon.metric("kubemux_paused_relays") >= active

    await bed.wait_for("who never reads is held back", are_held, seconds=60)


def come_and_go(count: int) -> Step:
    async def one(bed: Bed) -> None:
        bed.visitors += 1
        reader, writer = await asyncio.open_connection(*bed.plain)
        try:
            writer.write(b"1\n")
            await reader.readexactly(1)
        finally:
            await closed(writer)

    async def some(bed: Bed, numbers: Iterable[int]) -> None:
        for _ in numbers:
            await one(bed)

    async def step(bed: Bed) -> None:
        numbers = iter(range(count))
        await asyncio.gather(*(some(bed, numbers) for _ in range(AT_A_TIME)))

    return step


def all_at_once(count: int) -> Step:
    async def step(bed: Bed) -> None:
        await visit(bed, count)
        await wait_visitors(bed, count)
        loop = asyncio.get_running_loop()
        for sock in bed.kept:
            await loop.sock_sendall(sock, b"1\n")
        for sock in bed.kept:
            assert len(await loop.sock_recv(sock, 10)) == 1

    return step


def row(name: str, breaks: Step, mends: Step = nothing) -> Row:
    return Row(name=name, hits=Hits.CLUSTER, breaks=breaks, mends=mends, has_plain=True)


ROWS = (
    row("50 clients vanish while their channels open", vanish_while_opening),
    row("50 clients vanish during the request", vanish_in_request),
    row("50 clients vanish during the download", vanish_in_download),
    row("50 clients never read", never_read, vanish),
    row("10,000 connections opened and closed", come_and_go(10_000)),
    row("1,000 connections at once", all_at_once(1_000), vanish),
)


async def test_row(proven: Callable[[], Awaitable[None]]) -> None:
    await proven()


def test_the_limit_of_descriptors_is_high_enough_for_the_rows() -> None:
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 4_000
