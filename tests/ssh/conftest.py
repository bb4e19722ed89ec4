"""Gateways in the test's own loop, and helpers that wait for what they do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar, TypeVarTuple

import pytest
from prometheus_client import CollectorRegistry

from proxy.config.model import GatewayConfig
from proxy.config.reading import read
from proxy.errors import LinkError
from proxy.metrics import Metrics
from proxy.relay.budget import MemoryBudget
from proxy.runtime.blocking import Place
from proxy.runtime.endpoint import Endpoint
from proxy.ssh.handshakes import Handshakes
from proxy.ssh.login.dial import Dialled, dial
from proxy.ssh.planes import DATA_PLANE
from proxy.ssh.supervision.gateway import Gateway
from proxy.ssh.turns import Turns
from tests.support.sshd import Sshd

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
ORIGIN = Endpoint("127.0.0.1", 1)


@pytest.fixture(params=["native", "asyncssh"])
def data_plane(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The data plane of the test's links."""
    monkeypatch.setenv(DATA_PLANE, request.param)
    return str(request.param)


def config_for(sshd: Sshd, **more: object) -> GatewayConfig:
    """The configuration of a gateway that is this sshd."""
    section = {
        "host": sshd.host,
        "port": sshd.port,
        "user": sshd.user,
        "identity_files": [str(sshd.identity)],
        "known_hosts": [str(sshd.known_hosts())],
        "connections": 1,
    }
    return read(GatewayConfig, {key: value for key, value in (section | more).items() if value is not None})


@asynccontextmanager
async def dialled(
    config: GatewayConfig, gateways: Mapping[str, GatewayConfig] | None = None
) -> AsyncIterator[Dialled]:
    """Dial one link. Yields its connections, and closes them at the end. Raises LinkError."""
    result = await dial(config, gateways or {}, Handshakes(), lambda _: None)
    try:
        yield result
    finally:
        await result.close()
        for conn in result.conns:
            await conn.wait_closed()


async def failure(config: GatewayConfig, gateways: Mapping[str, GatewayConfig] | None = None) -> LinkError:
    """The error of a dial that must fail."""
    try:
        async with dialled(config, gateways):
            raise AssertionError(f"{config.host} was reached")
    except LinkError as exc:
        return exc


class Impatient(Place):
    """A place that gives a call up as soon as it does `what`, and not before."""

    def __init__(self, what: str) -> None:
        super().__init__("impatient")
        self._what = what

    async def run(self, function: Callable[[*Ts], T], *args: *Ts, timeout: float) -> T:  # noqa: ASYNC109 - as its base
        running = asyncio.get_running_loop().create_task(super().run(function, *args, timeout=timeout))
        while not running.done():
            if self._running and self._running[0].what == self._what:
                running.cancel()
                raise self._running[0].hangs()
            await asyncio.sleep(0.01)
        return await running


class Watched(Gateway):
    """A gateway whose changes a test can wait for."""

    def __init__(self, config: GatewayConfig, gateways: Mapping[str, GatewayConfig] | None = None) -> None:
        self.budget = MemoryBudget(64 << 20, connections=1000)
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry, version="")
        self.changed = asyncio.Condition()
        self._notices: set[asyncio.Task[None]] = set()
        super().__init__(
            "edge",
            config,
            gateways or {},
            budget=self.budget,
            turns=Turns(),
            record=self.metrics.gateway("edge"),
            handshakes=Handshakes(),
            on_change=self._notice,
        )

    def _notice(self) -> None:
        task = asyncio.get_running_loop().create_task(self._notify())
        self._notices.add(task)
        task.add_done_callback(self._notices.discard)

    async def _notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def until(self, condition: Callable[[], bool], *, seconds: float = 30.0) -> None:
        """Wait until `condition` holds; it is checked after each change. Raises TimeoutError."""
        async with asyncio.timeout(seconds), self.changed:
            await self.changed.wait_for(condition)

    @property
    def links(self) -> int:
        return len(self.snapshot().links)

    @property
    def channels(self) -> int:
        return sum(link.load for link in self._links)

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"kubemux_{name}", {"gateway": self.name, **labels}) or 0.0


@asynccontextmanager
async def started(
    config: GatewayConfig, gateways: Mapping[str, GatewayConfig] | None = None
) -> AsyncIterator[Watched]:
    """A started gateway; closed at the end."""
    gateway = Watched(config, gateways)
    gateway.start()
    try:
        yield gateway
    finally:
        await gateway.close()


async def settled(gateway: Watched) -> None:
    """Wait until the gateway has handled sshd's list of host keys, which sshd sends after the login."""
    async with asyncio.timeout(30):
        while any(link.rtt is None for link in gateway._links):
            await asyncio.sleep(0.01)
        # sshd sent the list before its answer to our keepalive. A callback starts the task that learns, and
        # may still be due in this turn of the loop.
        await asyncio.sleep(0)
        while "/learn " in repr(gateway._dialler._tasks):
            await asyncio.sleep(0.01)
