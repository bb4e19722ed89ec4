"""A bad network between kubemux and sshd: a TCP relay that delays, stalls, cuts, resets and corrupts on
demand.
"""

from __future__ import annotations

import asyncio
import random
from enum import Enum

from proxy.runtime.endpoint import Endpoint
from tests.support.serving import Server, closed, reset

CHUNK = 64 << 10
IN_FLIGHT = 64
"""Chunks that a delayed direction holds before the sender gets backpressure."""


class Direction(Enum):
    """A direction of the relay, as its client sees it."""

    TO_SERVER = "to_server"
    TO_CLIENT = "to_client"


class FaultyRelay(Server):
    """Relays to `target`.

    `disconnect(hard=True)` resets all connections; `refuse` and `listen` affect new ones.
    """

    def __init__(self, target: Endpoint) -> None:
        super().__init__()
        self._target = target
        self.delay = 0.0
        """Seconds of delay in each direction."""
        self.jitter = 0.0
        """The upper limit of each chunk's random delay, in seconds; chunks stay in order."""
        self.carried = dict.fromkeys(Direction, 0)
        """Bytes relayed."""
        self._flow = {direction: asyncio.Event() for direction in Direction}
        self._corrupt = dict.fromkeys(Direction, 0)
        self._boot = 0
        self.resume()

    def stall(self, *directions: Direction) -> None:
        """Hold all data of these directions (by default both) until `resume`. Nothing is lost."""
        for direction in directions or Direction:
            self._flow[direction].clear()

    def resume(self, *directions: Direction) -> None:
        """End `stall`."""
        for direction in directions or Direction:
            self._flow[direction].set()

    def corrupt(self, direction: Direction, count: int = 1) -> None:
        """Flip a bit in the middle of each of the next `count` chunks."""
        self._corrupt[direction] += count

    def forget(self) -> None:
        """Act like a peer that was rebooted: relay nothing, and answer the next bytes with RST."""
        self._boot += 1

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection(*self._target)
        boot = self._boot
        try:
            async with asyncio.TaskGroup() as group:
                for direction, source, sink in (
                    (Direction.TO_SERVER, reader, upstream_writer),
                    (Direction.TO_CLIENT, upstream_reader, writer),
                ):
                    queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(IN_FLIGHT)
                    group.create_task(self._receive(source, queue), name=f"receive {direction.value}")
                    group.create_task(
                        self._pass_on(direction, queue, sink, boot), name=f"pass on {direction.value}"
                    )
        except* OSError:
            # One side has closed its connection; the other one is closed below.
            if boot != self._boot:
                reset(writer)
        finally:
            await closed(upstream_writer)

    async def _receive(self, source: asyncio.StreamReader, queue: asyncio.Queue[tuple[float, bytes]]) -> None:
        data = b"-"
        while data:
            data = await source.read(CHUNK)
            late = random.uniform(0, self.jitter)  # noqa: S311 - a bad network, not a secret
            await queue.put((asyncio.get_running_loop().time() + self.delay + late, data))

    async def _pass_on(
        self,
        direction: Direction,
        queue: asyncio.Queue[tuple[float, bytes]],
        sink: asyncio.StreamWriter,
        boot: int,
    ) -> None:
        while True:
            due, data = await queue.get()
            await asyncio.sleep(due - asyncio.get_running_loop().time())
            await self._flow[direction].wait()
            if boot != self._boot:
                if direction is Direction.TO_SERVER:
                    raise ConnectionResetError("a peer that was rebooted knows nothing of this connection")
                continue
            if sink.transport.is_closing():  # uvloop raises RuntimeError for a write to a closed transport
                raise ConnectionResetError("the other side has gone")
            if not data:
                return sink.write_eof()
            if self._corrupt[direction]:
                self._corrupt[direction] -= 1
                middle = len(data) // 2
                data = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
            sink.write(data)
            await sink.drain()
            self.carried[direction] += len(data)
