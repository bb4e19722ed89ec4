"""A port whose clients are relayed over a gateway's channels, and helpers for tests of the native
data plane.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from proxy.config.model import GatewayConfig
from proxy.entries.arrival import Arrival, Caller, ListenerArrival
from proxy.entries.listener import Listener
from proxy.errors import ChannelError, LinkDown
from proxy.errors.reasons import Reason
from proxy.metrics import Traffic
from proxy.relay.interfaces import Channel, Relay, Way
from proxy.runtime.endpoint import Endpoint
from proxy.runtime.tasks import Tasks
from proxy.ssh.native.native_plane import NativePlane
from tests.ssh.conftest import ORIGIN, Watched, config_for, started
from tests.support.echo import exchange, pattern
from tests.support.ports import free_port
from tests.support.serving import Server
from tests.support.serving import closed as closed_writer
from tests.support.sshd import Sshd

SECONDS = 30.0
"""The deadline of every wait in seconds; generous, as a busy machine is ten times slower."""


class Tunnel:
    """`async with Tunnel(gateway, target) as tunnel: tunnel.endpoint`.

    At the end of the block all relays must have ended.
    """

    def __init__(self, way: Way, target: Endpoint, gateway: Watched) -> None:
        self.endpoint = Endpoint("127.0.0.1", free_port())
        self.relays: list[Relay] = []
        self.ended: list[str | None] = []
        self._way = way
        self._target = target
        self._budget = gateway.budget
        self._listener = Listener(self.endpoint, self._client)
        self._tasks = Tasks("tunnel")
        self._idle = asyncio.Event()

    async def __aenter__(self) -> Tunnel:
        await self._listener.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        await self._tasks.close()
        async with asyncio.timeout(SECONDS):
            while self.relays:
                self._idle.clear()
                self.relays[0].abort(Reason.SHUTDOWN)
                await self._idle.wait()

    def _client(self, sock: socket.socket, caller: Caller) -> None:
        self._tasks.spawn(self._serve(ListenerArrival(sock, caller)), name="client")

    async def _serve(self, arrival: Arrival) -> None:
        loop = asyncio.get_running_loop()
        try:
            channel: Channel = await self._way.open_channel(
                self._target, origin=ORIGIN, hold_until=loop.time() + SECONDS
            )
        except (ChannelError, LinkDown) as exc:
            self.ended.append(exc.reason)
            arrival.refuse(exc.reason)
            return
        relay = arrival.relay(channel, Traffic(), self._budget, self._end)
        self.relays.append(relay)
        await relay.start()

    def _end(self, relay: Relay) -> None:
        self.ended.append(relay.reason)
        self.relays.remove(relay)
        self._idle.set()


@asynccontextmanager
async def native(config: GatewayConfig) -> AsyncIterator[Watched]:
    """A gateway whose link is up on the native data plane. At the end the whole budget must be released."""
    async with started(config) as gateway:
        await gateway.until(lambda: gateway.links == config.connections)
        assert {link.data_plane for link in gateway.snapshot().links} == {"native"}
        yield gateway
    assert gateway.budget.used == 0


def plane(gateway: Watched) -> NativePlane:
    """The data plane of the gateway's only link."""
    found = gateway._links[0]._plane
    assert isinstance(found, NativePlane)
    return found


async def closed(gateway: Watched) -> None:
    """Wait until no channel is left on the gateway's link."""
    async with asyncio.timeout(SECONDS):
        await gateway._links[0].idle.wait()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a state that no event reports, for example that the kernel's buffers are full."""
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def tunnel(sshd: Sshd, server: Server, **more: object) -> AsyncIterator[tuple[Watched, Endpoint]]:
    """A gateway at `sshd`, and a local port that is forwarded to `server`."""
    async with (
        server,
        native(config_for(sshd, **more)) as gateway,
        Tunnel(gateway, server.endpoint, gateway) as port,
    ):
        yield gateway, port.endpoint


async def upload(port: Endpoint, size: int) -> None:
    """Send `size` bytes to a `Sink`, and check its answer."""
    data = pattern(size)
    assert await exchange(port, data, seconds=300) == hashlib.sha256(data).hexdigest().encode()


async def download(port: Endpoint, size: int) -> float:
    """Read `size` bytes from a `Source`, and check them. Returns the longest pause in seconds."""
    expected = hashlib.sha256(pattern(size)).digest()
    digest, longest, loop = hashlib.sha256(), 0.0, asyncio.get_running_loop()
    reader, writer = await asyncio.open_connection(*port)
    try:
        async with asyncio.timeout(300):
            writer.write(f"{size}\n".encode())
            last = loop.time()
            while data := await reader.read(1 << 20):
                longest, last = max(longest, loop.time() - last), loop.time()
                digest.update(data)
    finally:
        await closed_writer(writer)
    assert digest.digest() == expected
    return longest
