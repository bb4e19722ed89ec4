"""A client between its entry and the cluster, with an entry that sends an answer first, as SOCKS5 and CONNECT
do.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import pytest
from prometheus_client import CollectorRegistry

from proxy.config.model import ClusterConfig
from proxy.daemon.access import Access
from proxy.daemon.cluster import Cluster
from proxy.daemon.connections import Shared
from proxy.entries.admission import Admission
from proxy.entries.arrival import Arrival, Caller, ListenerArrival
from proxy.errors.reasons import Reason
from proxy.metrics import Metrics
from proxy.relay.budget import MemoryBudget
from proxy.relay.direct import Direct
from proxy.relay.waiting import WaitingForMemory
from proxy.runtime.endpoint import Endpoint
from tests.support.echo import Echo
from tests.support.ports import free_port

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Spoken(ListenerArrival):
    """Answers with the line `yes`, or with the line `no` and the reason."""

    def __init__(self, sock: socket.socket, caller: Caller, early: bytes = b"") -> None:
        super().__init__(sock, caller)
        self.early = early

    async def start(self, relay: asyncio.BufferedProtocol) -> None:
        self._sock.send(b"yes\n")
        await super().start(relay)

    def refuse(self, reason: Reason, message: str = "") -> None:
        del message
        self._sock.send(f"no: {reason}\n".encode())
        self._sock.close()


def cluster(server: Endpoint, *, limit: int = 10) -> Cluster:
    budget = MemoryBudget(16 << 20, connections=10)
    metrics = Metrics(CollectorRegistry(), version="")
    shared = Shared(budget, Admission(limit), metrics, 1.0, WaitingForMemory(budget), Access(metrics))
    config = ClusterConfig(gateway="direct", listen=Endpoint("127.0.0.1", 1), api_servers=(server,))
    return Cluster("one", config, Direct(), shared)


async def arrives(make: Callable[[socket.socket, Caller], Arrival], at: Cluster) -> Connection:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connection = await asyncio.open_connection(*listener.getsockname())
        sock, address = listener.accept()
    sock.setblocking(False)
    at.accept(make(sock, Caller(Endpoint(*address))))
    return connection


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


@pytest.fixture
async def echo() -> AsyncIterator[Endpoint]:
    async with Echo() as server:
        yield server.endpoint


@pytest.mark.both_loops
@pytest.mark.parametrize("size", [5, 300_000], ids=["a few", "more than a buffer"])
async def test_bytes_that_arrive_with_the_request_are_sent_first(echo: Endpoint, size: int) -> None:
    early = bytes(range(256)) * (size // 256) + b"hello"
    one = cluster(echo)
    reader, writer = await arrives(lambda sock, caller: Spoken(sock, caller, early), one)
    writer.write(b" and the rest")
    async with asyncio.timeout(30):
        assert await reader.readline() == b"yes\n"
        assert await reader.readexactly(len(early) + 13) == early + b" and the rest"
    assert one.connections.traffic.to_cluster == len(early) + 13
    await close(writer)
    await one.connections.drain(5)


async def test_an_entry_tells_the_reason_of_a_refusal_in_its_own_protocol() -> None:
    one = cluster(Endpoint("127.0.0.1", free_port()))
    reader, writer = await arrives(Spoken, one)
    async with asyncio.timeout(30):
        assert await reader.readline() == b"no: channel_refused\n"
    await close(writer)
    full = cluster(one.order[0], limit=0)
    reader, writer = await arrives(Spoken, full)
    async with asyncio.timeout(30):
        assert await reader.readline() == b"no: limit\n"
    await close(writer)
    for each in (one, full):
        await each.connections.drain(5)


async def test_a_client_that_a_listener_cannot_serve_is_reset() -> None:
    one = cluster(Endpoint("127.0.0.1", free_port()))
    reader, writer = await arrives(ListenerArrival, one)
    async with asyncio.timeout(30):
        with pytest.raises(ConnectionResetError):
            await reader.read()
    await close(writer)
    await one.connections.drain(5)


def test_a_caller_is_known_by_each_of_its_names() -> None:
    proved = frozenset({"cert:ci.example.com", "proxy-user:ci"})
    caller = Caller(Endpoint("::1", 40_000), 1002, proved)
    for name in (*proved, caller.identity, "uid:1002", "::1", "[::1]:40000"):
        assert caller.is_called(name), name
    for name in ("", "uid:100", "uid:1003", "uid:None", "ci", "cert:ci", "[::1]:4000", "unix"):
        assert not caller.is_called(name), name
    assert Caller(None).is_called("unix")
    assert not Caller(None).is_called("uid:None")
