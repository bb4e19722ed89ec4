"""Messages that a peer sends for a channel before it sees our CLOSE are ignored; all others are still
checked.

On both planes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from asyncssh.packet import String, UInt32

from proxy.runtime.endpoint import Endpoint
from proxy.ssh.native.wire import messages
from tests.ssh.carried import SECONDS, closed
from tests.ssh.conftest import ORIGIN, Watched, started
from tests.ssh.scripted_peer import Script, asyncssh_server
from tests.ssh.test_native_transfer import Collector

pytestmark = pytest.mark.usefixtures("data_plane")

TARGET = Endpoint("10.0.0.1", 6443)


@pytest.fixture
async def script() -> Script:
    return Script()


@pytest.fixture
async def gateway(tmp_path: Path, script: Script) -> AsyncIterator[Watched]:
    async with asyncssh_server(tmp_path, script) as config, started(config) as gateway:
        await gateway.until(lambda: gateway.links == 1)
        yield gateway


async def opened(gateway: Watched, script: Script) -> tuple[Any, int]:
    """An open channel and its number."""
    loop = asyncio.get_running_loop()
    opening = loop.create_task(gateway.open_channel(TARGET, origin=ORIGIN, hold_until=loop.time() + SECONDS))
    number = await script.open()
    return await opening, number


def data(number: int, content: bytes) -> tuple[int, bytes]:
    return messages.DATA, UInt32(number) + String(content)


def request(number: int) -> tuple[int, bytes]:
    return messages.REQUEST, UInt32(number) + String("keepalive@openssh.com") + b"\1"


LATE: dict[str, Callable[[int], tuple[int, bytes]]] = {
    "credit": lambda number: (messages.WINDOW_ADJUST, UInt32(number) + UInt32(1 << 20)),
    "data": lambda number: data(number, b"late"),
    "end of file": lambda number: (messages.EOF, UInt32(number)),
    "a request that wants a reply": request,
    "another close": lambda number: (messages.CLOSE, UInt32(number)),
}


async def still_carries(gateway: Watched, script: Script) -> None:
    """Check that the same link still opens a channel, which gets its own data and nothing else."""
    channel, number = await opened(gateway, script)
    user = Collector()
    channel.attach(user)
    script.send(messages.DATA, number, then=String(b"mine"))
    script.send(messages.EOF, number)
    async with asyncio.timeout(SECONDS):
        await user.eof.wait()
    assert user.data == b"mine"
    channel.close()
    await script.receive(messages.CLOSE)
    script.send(messages.CLOSE, number)
    await closed(gateway)
    assert gateway.metric("gateway_connects_total", result="ok") == 1


@pytest.mark.parametrize("late", LATE)
async def test_messages_that_cross_our_close_are_dropped(gateway: Watched, script: Script, late: str) -> None:
    """The peer sends CLOSE, and then more messages until it sees our CLOSE."""
    channel, number = await opened(gateway, script)
    user = Collector()
    channel.attach(user)
    script.send(messages.CLOSE, number)
    kind, rest = LATE[late](number)
    script.send(kind, then=rest)  # in one read with the CLOSE before it
    assert await script.receive(messages.CLOSE) == messages.close(7)
    async with asyncio.timeout(SECONDS):
        await user.lost.wait()
    script.send(kind, then=rest)  # when the channel is closed
    await still_carries(gateway, script)
    assert not user.data
    assert user.error is None


@pytest.mark.parametrize("late", ["credit", "data", "a request that wants a reply"])
async def test_messages_between_our_close_and_the_peers_are_harmless(
    gateway: Watched, script: Script, late: str
) -> None:
    channel, number = await opened(gateway, script)
    channel.attach(Collector())
    channel.abort()
    await script.receive(messages.CLOSE)
    kind, rest = LATE[late](number)
    script.send(kind, then=rest)
    script.send(messages.CLOSE, number)
    script.send(kind, then=rest)
    await closed(gateway)
    await still_carries(gateway, script)


async def test_a_channel_number_is_not_reused_at_once(gateway: Watched, script: Script) -> None:
    """Otherwise late credit for the old channel would count for the new one."""
    numbers = []
    for _ in range(3):
        channel, number = await opened(gateway, script)
        numbers.append(number)
        channel.close()
        await script.receive(messages.CLOSE)
        script.send(messages.CLOSE, number)
        await closed(gateway)
    assert len(set(numbers)) == 3


def close_then(kind: int, rest: Callable[[int], bytes]) -> Callable[[int], list[tuple[int, bytes]]]:
    return lambda number: [(messages.CLOSE, UInt32(number)), (kind, rest(number))]


BROKEN: dict[str, Callable[[int], list[tuple[int, bytes]]]] = {
    "credit for a channel that never existed": lambda _: [(messages.WINDOW_ADJUST, UInt32(4711) + UInt32(1))],
    "the end of a channel that never existed": lambda _: [(messages.CLOSE, UInt32(4711))],
    "late credit that is cut off": close_then(messages.WINDOW_ADJUST, lambda number: UInt32(number) + b"\0"),
    "late data of another length than it says": close_then(
        messages.DATA, lambda number: UInt32(number) + UInt32(9) + b"x"
    ),
    "a second answer to an open": close_then(
        messages.OPEN_CONFIRMATION, lambda number: b"".join(map(UInt32, (number, 8, 100, 100)))
    ),
    "a late answer to a request": close_then(messages.FAILURE, UInt32),
}


@pytest.mark.parametrize("breach", BROKEN)
async def test_messages_that_no_peer_may_send_late_end_the_link(
    gateway: Watched, script: Script, breach: str
) -> None:
    channel, number = await opened(gateway, script)
    channel.attach(Collector())
    link = gateway._links[0]
    for kind, rest in BROKEN[breach](number):
        script.send(kind, then=rest)
    async with asyncio.timeout(SECONDS):
        error = await asyncio.shield(link.closed)
    assert error.reason == "protocol_error"
