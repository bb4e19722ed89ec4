"""Bytes through the daemon and a real sshd: nothing is lost, half-close works, a slow side gets backpressure,
and memory is bounded.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from proxy.runtime.endpoint import Endpoint
from proxy.ssh.planes import DATA_PLANE
from tests.integration.conftest import cluster, gateway
from tests.support.daemon import Daemon
from tests.support.echo import Echo, Sink, Source, exchange, pattern
from tests.support.faulty import FaultyRelay
from tests.support.ports import free_port
from tests.support.serving import Server, closed
from tests.support.sshd import Sshd

pytestmark = pytest.mark.sshd

SIZE = 30_000_000
MEMORY = 32 << 20


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def start(
    stack: AsyncExitStack, sshd: Sshd, folder: Path, *servers: Server, **limits: object
) -> tuple[Daemon, list[Endpoint]]:
    """A daemon with a cluster for each server. Returns it and each cluster's mapped port."""
    ports = [free_port() for _ in servers]
    clusters: dict[str, object] = {
        f"c{n}": cluster(port, server.endpoint, probe={"interval": "10m"})
        for n, (port, server) in enumerate(zip(ports, servers, strict=True))
    }
    daemon = Daemon(
        folder / "daemon",
        gateways={"edge": gateway(sshd)},
        clusters=clusters,
        sections={"limits": {"drain_timeout": "1s", **limits}},
        executes=True,
    )
    await asyncio.to_thread(daemon.__enter__)
    stack.push_async_callback(asyncio.to_thread, daemon.stop)
    await eventually("the links", lambda: daemon.metric("kubemux_gateway_links") == 2)
    return daemon, [Endpoint("127.0.0.1", port) for port in ports]


def rss(daemon: Daemon) -> int:
    """The daemon's resident memory in bytes."""
    lines = Path(f"/proc/{daemon.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS"))


def stalled_reader(source: Endpoint, size: int) -> socket.socket:
    """A client that asks a Source for `size` bytes and reads none of them.

    `size` must be more than the kernel's buffers hold, which is 4 MB at the sender.
    """
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(source)
    client.sendall(f"{size}\n".encode())
    return client


async def eventually(what: str, condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Check `condition` about another process again and again until it holds."""
    async with asyncio.timeout(seconds):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.05)
    assert condition(), what


async def test_bytes_arrive_unchanged(stack: AsyncExitStack, sshd: Sshd, tmp_path: Path) -> None:
    sink, source, echo = [await stack.enter_async_context(server()) for server in (Sink, Source, Echo)]
    daemon, (to_sink, to_source, to_echo) = await start(stack, sshd, tmp_path, sink, source, echo)
    data = pattern(SIZE, seed=1)
    digest = hashlib.sha256(data).hexdigest().encode()
    up, down, both = await asyncio.gather(
        exchange(to_sink, data), exchange(to_source, f"{SIZE}\n".encode()), exchange(to_echo, data)
    )
    assert up == digest, "the answer came after the client's end of file: half-close works"
    assert down == pattern(SIZE)
    assert both == data
    await eventually(
        "the client ended it",
        lambda: daemon.metric("kubemux_connections_total", cluster="c0", result="client_closed") == 1,
    )
    assert daemon.metric("kubemux_bytes_total", cluster="c0", direction="to_cluster") == SIZE
    assert daemon.metric("kubemux_bytes_total", cluster="c1", direction="from_cluster") == SIZE
    await eventually("memory is given back", lambda: daemon.metric("kubemux_buffered_bytes") == 0)


async def test_stalled_readers_stay_within_the_memory_and_others_go_on(
    stack: AsyncExitStack, sshd: Sshd, tmp_path: Path
) -> None:
    source = await stack.enter_async_context(Source())
    daemon, (mapped,) = await start(
        stack, sshd, tmp_path, source, memory=f"{MEMORY >> 20}MiB", max_connections=500
    )
    await exchange(mapped, b"1000000\n")
    before = rss(daemon)
    for _ in range(100):
        stack.callback(stalled_reader(mapped, 12_000_000).close)
    await eventually("all stall", lambda: daemon.metric("kubemux_paused_relays") == 100, 60)
    assert daemon.metric("kubemux_buffered_bytes") <= MEMORY
    assert rss(daemon) - before <= MEMORY
    assert await exchange(mapped, f"{SIZE}\n".encode()) == pattern(SIZE)


async def test_a_stalled_link_holds_writers_within_the_memory(
    stack: AsyncExitStack, sshd: Sshd, tmp_path: Path
) -> None:
    """100 clients upload while the link's path stalls. They get backpressure, and every byte arrives after
    the stall.
    """
    echo = await stack.enter_async_context(Echo())
    path = await stack.enter_async_context(FaultyRelay(Endpoint(sshd.host, sshd.port)))
    port = free_port()
    known = tmp_path / "known_hosts"
    known.write_text(sshd.known_hosts().read_text().replace(str(sshd.port), str(path.endpoint.port)))
    through = gateway(
        sshd, port=path.endpoint.port, connections=1, keepalive={"interval": "60s"}, known_hosts=[str(known)]
    )
    daemon = Daemon(
        tmp_path / "daemon",
        gateways={"edge": through},
        clusters={"c": cluster(port, echo.endpoint, probe={"interval": "10m"})},
        sections={"limits": {"memory": "32MiB", "max_connections": 500}},
    )
    await asyncio.to_thread(daemon.__enter__)
    stack.push_async_callback(asyncio.to_thread, daemon.stop)
    await eventually("the link", lambda: daemon.metric("kubemux_gateway_links") == 1)
    mapped = Endpoint("127.0.0.1", port)
    data = pattern(1_000_000)
    clients = [await asyncio.open_connection(*mapped) for _ in range(100)]
    for reader, writer in clients:
        stack.push_async_callback(closed, writer)
        writer.write(b"here")
        assert await reader.readexactly(4) == b"here"
    before = rss(daemon)
    path.stall()

    async def upload(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(data)
        writer.write_eof()
        return await reader.read()

    async with asyncio.timeout(120):
        uploads = asyncio.gather(*(upload(*client) for client in clients))
        await eventually("writers pause", lambda: daemon.metric("kubemux_paused_relays") >= 90)
        assert rss(daemon) - before <= MEMORY
        path.resume()
        assert [got == data for got in await uploads] == [True] * 100


def test_an_unknown_data_plane_is_named_in_the_message(tmp_path: Path) -> None:
    with Daemon(tmp_path / "daemon", gateways={}, clusters={}, environment={DATA_PLANE: "asynssh"}) as daemon:
        (said,) = [entry for entry in daemon.events() if entry["event"] == "environment variable ignored"]
    assert (said["level"], said["name"], said["value"]) == ("warning", DATA_PLANE, "asynssh")
