"""One cluster without a daemon: clients that wait for memory."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import AsyncIterator, Callable

import pytest
from prometheus_client import CollectorRegistry

from proxy.config.model import ClusterConfig
from proxy.daemon.access import Access
from proxy.daemon.cluster import Cluster
from proxy.daemon.connections import Shared
from proxy.entries.admission import Admission
from proxy.entries.arrival import Caller, ListenerArrival
from proxy.errors import MemoryExhausted
from proxy.metrics import Metrics
from proxy.relay.budget import MemoryBudget
from proxy.relay.direct import Direct, TcpChannel
from proxy.relay.waiting import WaitingForMemory
from proxy.runtime.endpoint import Endpoint
from tests.support.echo import Echo

MEMORY = 16 << 20


class Metered(Direct):
    """A way whose channels acquire memory as a link's do."""

    def __init__(self, budget: MemoryBudget) -> None:
        super().__init__()
        self._budget = budget

    async def open_channel(
        self,
        target: Endpoint,
        *,
        origin: Endpoint,
        hold_until: float,
        answer_by: float = math.inf,
        is_needed: bool = True,
    ) -> TcpChannel:
        if not self._budget.acquire_initial():
            raise MemoryExhausted("limits.memory is all given out")
        return await super().open_channel(
            target, origin=origin, hold_until=hold_until, answer_by=answer_by, is_needed=is_needed
        )


class Bed:
    """A cluster whose memory budget is used up at first."""

    def __init__(self, server: Endpoint) -> None:
        self.budget = MemoryBudget(MEMORY, connections=100)
        self.registry = CollectorRegistry()
        metrics, waiting = Metrics(self.registry, version=""), WaitingForMemory(self.budget)
        self.shared = Shared(self.budget, Admission(100), metrics, 20.0, waiting, Access(metrics))
        config = ClusterConfig(gateway="direct", listen=Endpoint("127.0.0.1", 1), api_servers=(server,))
        self.cluster = Cluster("one", config, Metered(self.budget), self.shared)
        self.budget.charge(MEMORY)

    async def client(self, uid: int | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A client that has connected and sent `ping`."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            writer.write(b"ping")
            sock, address = listener.accept()
        sock.setblocking(False)
        self.cluster.accept(ListenerArrival(sock, Caller(Endpoint(*address), uid)))
        return reader, writer

    def ended(self, result: str) -> float:
        return (
            self.registry.get_sample_value("kubemux_connections_total", {"cluster": "one", "result": result})
            or 0.0
        )


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0)


@pytest.fixture
async def bed() -> AsyncIterator[Bed]:
    async with Echo() as echo:
        bed = Bed(echo.endpoint)
        yield bed
        await bed.cluster.connections.drain(0)
        assert len(bed.shared.waiting) == 0


async def test_a_client_waits_for_memory_and_is_served(bed: Bed) -> None:
    clients = []
    for count in range(1, 4):
        clients.append(await bed.client())
        await until(lambda count=count: len(bed.shared.waiting) == count)  # type: ignore[misc]
    assert bed.cluster.connections.active == 3

    bed.budget.release(bed.budget.floor)  # enough for the first
    bed.shared.waiting.wake()
    assert await clients[0][0].readexactly(4) == b"ping"
    assert len(bed.shared.waiting) == 2

    bed.budget.release(10 * bed.budget.floor)
    bed.shared.waiting.wake()
    for reader, _ in clients[1:]:
        assert await reader.readexactly(4) == b"ping"
    for _, writer in clients:
        writer.close()
    await until(lambda: bed.cluster.connections.active == 0)
    assert bed.ended("memory") == 0


async def test_a_client_waits_for_memory_no_longer_than_hold_timeout(bed: Bed) -> None:
    bed.shared.hold_timeout = 0.05
    reader, writer = await bed.client()
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    assert bed.ended("memory") == 1


async def test_after_a_long_shortage_of_memory_no_client_waits(bed: Bed) -> None:
    """When memory has been short for longer than hold_timeout, new clients are reset at once, until there is
    memory again.
    """
    bed.shared.hold_timeout = 0.05
    for served in range(2):
        reader, writer = await bed.client()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        assert bed.ended("memory") == served + 1
    bed.shared.hold_timeout = 60.0
    assert bed.shared.waiting._short_since is not None
    bed.shared.waiting._short_since -= 60.0
    reader, writer = await bed.client()
    began = asyncio.get_running_loop().time()
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    assert asyncio.get_running_loop().time() - began < 30.0
    assert bed.ended("memory") == 3
    bed.budget.release(bed.budget.floor)
    bed.shared.waiting.wake()
    reader, writer = await bed.client()
    assert await reader.readexactly(4) == b"ping"
    writer.close()
    await until(lambda: bed.cluster.connections.active == 0)


async def test_the_end_of_a_connection_lets_the_next_one_in(bed: Bed) -> None:
    bed.budget.release(bed.budget.floor)
    first, writer = await bed.client()
    assert await first.readexactly(4) == b"ping"
    second, other = await bed.client()
    await until(lambda: len(bed.shared.waiting) == 1)
    bed.budget.release(bed.budget.floor)  # the first channel releases it before its end is reported
    writer.close()
    assert await second.readexactly(4) == b"ping"
    other.close()
    await until(lambda: bed.cluster.connections.active == 0)


async def test_a_client_that_waits_for_memory_does_not_hold_up_a_stop(bed: Bed) -> None:
    reader, writer = await bed.client()
    await until(lambda: len(bed.shared.waiting) == 1)
    assert await bed.cluster.connections.drain(0) == 1
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()


async def test_leaving_connections_end_in_order_and_later_ones_stay(bed: Bed) -> None:
    bed.budget.release(MEMORY)
    old = await bed.client()
    assert await old[0].readexactly(4) == b"ping"
    leaving = asyncio.get_running_loop().create_task(bed.cluster.connections.leave(0.05), name="leave")
    await asyncio.sleep(0)
    new = await bed.client()
    assert await new[0].readexactly(4) == b"ping"
    async with asyncio.timeout(30):
        await leaving
        assert await old[0].read() == b""
    new[1].write(b"pong")
    assert await new[0].readexactly(4) == b"pong"
    for _, writer in (old, new):
        writer.close()
    await until(lambda: bed.cluster.connections.active == 0)
    assert bed.ended("shutdown") == 1
    async with asyncio.timeout(30):
        await bed.cluster.connections.leave(3600)


async def test_a_client_is_counted_once_at_every_moment(bed: Bed) -> None:
    bed.budget.release(MEMORY)
    counts: set[int] = set()

    def is_served() -> bool:
        counts.add(bed.cluster.connections.active)
        return bed.cluster.connections.traffic.from_cluster == 4

    _, writer = await bed.client()
    await until(is_served)
    assert counts == {1}
    writer.close()


async def test_waiting_connections_of_a_caller_are_ended_too(bed: Bed) -> None:
    waiting, other = await bed.client(1002), await bed.client(1003)
    await until(lambda: len(bed.shared.waiting) == 2)
    new = await bed.client(1002)  # its task has not begun
    connections = bed.cluster.connections
    assert (connections.active, connections.end("uid:1004")) == (3, 0)
    assert connections.end("uid:1002") == 2
    for reader, writer in (waiting, new):
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
    assert (connections.active, bed.ended("shutdown")) == (1, 2)
    bed.budget.release(MEMORY)
    bed.shared.waiting.wake()
    assert await other[0].readexactly(4) == b"ping"
    assert connections.end("uid:1003") == 1
    with pytest.raises(ConnectionResetError):
        await other[0].read()
    other[1].close()
    assert (connections.active, bed.ended("shutdown")) == (0, 3)


async def test_a_drain_does_not_wait_for_a_client_whose_task_has_not_begun(bed: Bed) -> None:
    reader, writer = await bed.client()
    async with asyncio.timeout(30):
        assert await bed.cluster.connections.drain(0) == 1
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    assert (bed.cluster.connections.active, bed.ended("shutdown")) == (0, 1)
