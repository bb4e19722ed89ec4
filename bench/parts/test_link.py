"""A link without a network: packets to channels, clients' bytes to packets, clients' sockets to relays."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import uvloop
from prometheus_client import CollectorRegistry
from pytest_benchmark.fixture import BenchmarkFixture

from bench.parts.peer import ORIGIN, TARGET, Peer, sealed, timed
from proxy.config.model import ClusterConfig
from proxy.config.reading import read
from proxy.daemon.access import Access
from proxy.daemon.cluster import Cluster
from proxy.daemon.connections import Shared
from proxy.entries.admission import Admission
from proxy.entries.arrival import Caller, ListenerArrival
from proxy.errors import ProxyError
from proxy.metrics import Metrics
from proxy.relay.interfaces import Channel, Pieces
from proxy.relay.waiting import WaitingForMemory
from proxy.runtime.plain_socket import PlainSocket
from proxy.ssh.native.wire import messages

CHANNELS = 8
PACKETS = 64
CLIENTS = 50


class Taker:
    """The user of a channel. It is never slow."""

    def __init__(self) -> None:
        self.taken = 0

    def channel_data(self, pieces: Pieces, nbytes: int) -> None:
        del pieces
        self.taken += nbytes

    def channel_eof(self) -> None: ...
    def channel_full(self) -> None: ...
    def channel_writable(self) -> None: ...
    def channel_lost(self, error: ProxyError | None) -> None: ...


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = uvloop.new_event_loop()
    yield loop
    loop.close()


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def opened(count: int) -> tuple[Peer, list[tuple[Channel, Taker]]]:
    peer, users = Peer(), []
    for _ in range(count):
        channel = await peer.open_channel(TARGET, origin=ORIGIN, hold_until=0)
        taker = Taker()
        channel.attach(taker)
        users.append((channel, taker))
    return peer, users


@pytest.mark.parametrize("size", [100, 1024, 32 << 10])
def test_demultiplex(benchmark: BenchmarkFixture, loop: asyncio.AbstractEventLoop, size: int) -> None:
    """64 packets for 8 channels, from the link's buffer to the users, window credit included."""
    peer, users = loop.run_until_complete(opened(CHANNELS))
    peer.is_deaf = True
    payload = size.to_bytes(4) + bytes(size)
    said = [bytes((messages.DATA,)) + (n % CHANNELS).to_bytes(4) + payload for n in range(PACKETS)]

    def seal_all() -> tuple[tuple[bytes], dict[str, Any]]:
        loop.run_until_complete(turns())
        return (sealed(peer.sealer, said),), {}

    before = sum(taker.taken for _, taker in users)
    timed(benchmark, peer.arrive, items=PACKETS, setup=seal_all, rounds=100, warmup_rounds=5)
    received = sum(taker.taken for _, taker in users) - before
    assert received % (PACKETS * size) == 0
    assert received


@pytest.mark.parametrize("size", [100, 1024, 32 << 10])
def test_to_the_cluster(benchmark: BenchmarkFixture, loop: asyncio.AbstractEventLoop, size: int) -> None:
    """Bytes of 8 clients in one turn of the loop, from their sockets' `get_buffer` to the link's write."""
    peer, users = loop.run_until_complete(opened(CHANNELS))
    peer.is_deaf = True
    before = peer.heard

    async def turn() -> None:
        for channel, _ in users:
            channel.get_buffer(-1)
            channel.buffer_updated(size)
        await asyncio.sleep(0)

    rounds = 200  # 8 x 32 KiB each, of a window of 1 GiB
    timed(
        benchmark,
        loop.run_until_complete,
        items=CHANNELS,
        setup=lambda: ((turn(),), {}),
        rounds=rounds,
        warmup_rounds=5,
    )
    loop.run_until_complete(turns())
    assert peer.heard - before >= size * CHANNELS


class Clients:
    """A cluster whose clients connect through socket pairs."""

    def __init__(self, peer: Peer) -> None:
        metrics = Metrics(CollectorRegistry(), version="")
        config = read(
            ClusterConfig, {"gateway": "edge", "listen": "127.0.0.1:1", "api_servers": [str(TARGET)]}
        )
        shared = Shared(
            peer.budget, Admission(10_000), metrics, 5.0, WaitingForMemory(peer.budget), Access(metrics)
        )
        self._cluster = Cluster("c", config, peer, shared)
        self._peer = peer
        self._theirs: list[socket.socket] = []
        self._ours: list[socket.socket] = []

    def connect(self) -> None:
        """Connect new clients."""
        for _ in range(CLIENTS):
            ours, other = socket.socketpair()
            theirs = PlainSocket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=other.detach())  # as a Listener's
            theirs.setblocking(False)
            self._ours.append(ours)
            self._theirs.append(theirs)

    async def accept(self) -> None:
        """Pass them to the cluster, and wait until each has a channel and a relay."""
        cluster, theirs, self._theirs = self._cluster, self._theirs, []
        for sock in theirs:
            cluster.accept(ListenerArrival(sock, Caller(ORIGIN)))
        relays = cluster.connections._relays  # noqa: SLF001 - no public count
        while sum(relay.has_started for relay in relays) < CLIENTS:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0)

    async def disconnect(self) -> None:
        """End all clients, and wait until their channels have ended."""
        for ours in self._ours:
            ours.close()
        self._ours.clear()
        while self._cluster.connections.active or self._peer.link.load:  # noqa: ASYNC110 - the same
            await asyncio.sleep(0)


def test_accept(benchmark: BenchmarkFixture, loop: asyncio.AbstractEventLoop) -> None:
    """50 clients at once, from their accepted sockets until each has a channel and a running relay."""
    peer, _ = loop.run_until_complete(opened(0))
    clients = loop.run_until_complete(_clients(peer))
    timed(
        benchmark,
        lambda: loop.run_until_complete(clients.accept()),
        items=CLIENTS,
        setup=clients.connect,
        teardown=lambda: loop.run_until_complete(clients.disconnect()),
        rounds=40,
        warmup_rounds=3,
    )
    loop.run_until_complete(
        clients.disconnect()
    )  # pytest-benchmark calls no teardown when it does not measure


def test_come_and_go(benchmark: BenchmarkFixture, loop: asyncio.AbstractEventLoop) -> None:
    """Like `test_accept`, and the end of the clients."""
    peer, _ = loop.run_until_complete(opened(0))
    clients = loop.run_until_complete(_clients(peer))

    async def live() -> None:
        await clients.accept()
        await clients.disconnect()

    timed(
        benchmark,
        lambda: loop.run_until_complete(live()),
        items=CLIENTS,
        setup=clients.connect,
        rounds=40,
        warmup_rounds=3,
    )


async def _clients(peer: Peer) -> Clients:
    return Clients(peer)
