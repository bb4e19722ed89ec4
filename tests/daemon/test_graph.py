"""A stop finds clients that have not sent their whole request: it waits for them as for connections."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.daemon import connections
from tests.daemon.test_by_name import Bed, Client, serving
from tests.support.echo import Echo

GREETING = b"\x05\x01\x00"
REQUEST = b"\x05\x01\x00\x03\x04prod\x01\xbb"
SERVED = b"\x05\x00\x00\x01" + bytes(6)
FAILED = b"\x05\x01\x00\x01" + bytes(6)


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[Bed]:
    async with Echo() as echo, serving(echo, tmp_path) as bed:
        yield bed


async def turns() -> None:
    """Let the loop make many more turns than a stop needs that has nothing to wait for."""
    for _ in range(200):
        await asyncio.sleep(0)


async def half(bed: Bed) -> Client:
    """A SOCKS5 client that has not sent its target yet."""
    client = Client(*await asyncio.open_connection(*bed.proxy))
    bed.clients.append(client)
    client.writer.write(GREETING)
    async with asyncio.timeout(30):
        assert await client.reader.readexactly(2) == b"\x05\x00"
    return client


async def test_a_stop_serves_a_client_that_has_sent_half_of_its_request(bed: Bed) -> None:
    """The destination has no connection yet, so the stop waits only because of the entry."""
    client = await half(bed)
    stop = asyncio.get_running_loop().create_task(bed.daemon.stop(timeout=60))
    await turns()
    assert not bed.daemon.graph.entries["proxy"].listener.is_bound
    client.writer.write(REQUEST)
    async with asyncio.timeout(30):
        assert await client.reader.readexactly(len(SERVED)) == SERVED
    for _ in range(3):
        await client.tick()
    assert not stop.done()
    client.writer.write_eof()
    async with asyncio.timeout(30):
        await stop


async def test_a_stop_serves_a_client_that_comes_in_the_same_turn_of_the_loop(bed: Bed) -> None:
    """The stop drains the destinations, which have no connection yet, while the request is still unread."""
    loop = asyncio.get_running_loop()
    with socket.create_connection(bed.proxy) as client:
        client.sendall(b"CONNECT prod:443 HTTP/1.1\r\n\r\n")
        client.setblocking(False)
        stop = loop.create_task(bed.daemon.stop(timeout=60))
        async with asyncio.timeout(30):
            assert (await loop.sock_recv(client, 100)).startswith(b"HTTP/1.1 200 ")
            await turns()
            await loop.sock_sendall(client, b"tick")
            assert await loop.sock_recv(client, 4) == b"tick"
    async with asyncio.timeout(30):
        await stop


async def test_a_silent_client_does_not_shorten_the_half_close_of_others(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time for the drain is over while the stop waits for the silent client. The other connections are
    half-closed nevertheless, and not reset.
    """
    monkeypatch.setattr(connections, "HALF_CLOSE_S", 60.0)
    silent, relayed = await half(bed), await bed.served_client("prod:443")
    stop = asyncio.get_running_loop().create_task(bed.daemon.stop(timeout=0.1))
    async with asyncio.timeout(30):
        assert await silent.reader.read() == FAILED
        assert await relayed.reader.read() == b""
        await stop
