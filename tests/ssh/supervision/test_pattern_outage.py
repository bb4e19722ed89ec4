"""An outage of all hosts of a gateway pattern: it costs `max_hosts` dials and waits, however many are asked
for.
"""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from proxy.config.model import GatewayConfig
from proxy.config.reading import read
from proxy.errors import HostLimit, LinkDown
from proxy.relay.interfaces import Channel
from proxy.runtime.endpoint import Endpoint
from proxy.snapshots import GatewayState
from tests.ssh.conftest import ORIGIN
from tests.ssh.supervision.test_patterns import Pattern, started
from tests.support import ssh_keys

MOST = 500


@pytest.fixture
def config(tmp_path: Path) -> GatewayConfig:
    known_hosts = tmp_path / "known_hosts"
    known_hosts.touch()
    section = {
        "host": "{host}",
        "user": "tunnel",
        "identity_files": [str(ssh_keys.new_key(tmp_path / "key"))],
        "known_hosts": [str(known_hosts)],
        "connect_timeout": "1h",
        "idle_timeout": "1m",
        "max_hosts": MOST,
    }
    return read(GatewayConfig, section)


def hosts(network: int, count: int = MOST) -> list[str]:
    return [f"127.{network}.{number // 250}.{number % 250 + 1}" for number in range(count)]


def ask(pattern: Pattern, host: str) -> asyncio.Task[Channel]:
    """A client with a `hold_timeout` of 0: it waits for `connect_timeout` alone."""
    opening = pattern.way(host).open_channel(Endpoint("10.0.0.1", 22), origin=ORIGIN, hold_until=0.0)
    return asyncio.get_running_loop().create_task(opening, name=f"client of {host}")


async def dialling(pattern: Pattern, count: int) -> None:
    async with asyncio.timeout(60):
        while sum(gateway._supervisor._is_dialling for gateway, _ in pattern._hosts.values()) != count:
            await asyncio.sleep(0.01)


def dials(pattern: Pattern) -> float:
    """How many dials have ended. A server that ends a connection at once is unreachable or fails in the
    handshake: that depends on what the dial has done before.
    """
    pattern.sample()
    return sum(
        one.value
        for family in pattern.registry.collect()
        for one in family.samples
        if one.name == "kubemux_gateway_connects_total"
    )


def own_tasks(before: set[asyncio.Task[object]]) -> list[asyncio.Task[object]]:
    return [task for task in asyncio.all_tasks() - before if "nodes" in task.get_name()]


async def test_an_outage_causes_at_most_max_hosts_dials(config: GatewayConfig) -> None:
    before = asyncio.all_tasks()
    with socket.create_server(("0.0.0.0", 0), backlog=2 * MOST) as silent:  # noqa: S104 - a test's own server
        port = silent.getsockname()[1]
        async with started(config.model_copy(update={"port": port})) as pattern:
            clients = [ask(pattern, host) for host in hosts(1)]
            await dialling(pattern, MOST)
            pattern.sample()
            assert (pattern.snapshot().state, len(pattern._hosts)) == (GatewayState.CONNECTING, MOST)
            with pytest.raises(HostLimit, match="max_hosts is 500, and all are in use"):
                await ask(pattern, "127.2.0.1")
            assert len(pattern._hosts) == MOST
            silent.close()
            for failure in await asyncio.gather(*clients, return_exceptions=True):
                assert isinstance(failure, LinkDown)
            assert sum(gateway._supervisor.retry.is_waiting for gateway, _ in pattern._hosts.values()) <= MOST
            assert pattern.snapshot().state is GatewayState.DOWN
            # Clients ask for 50 other hosts. Each gets the place of a host that no client uses, and fails.
            for gateway, _ in pattern._hosts.values():
                gateway._supervisor._demand._last -= 1
            others = hosts(2, 50)
            results = await asyncio.gather(*(ask(pattern, host) for host in others), return_exceptions=True)
            assert {type(result) for result in results} == {LinkDown}
            assert (len(pattern._hosts), set(others) - set(pattern._hosts)) == (MOST, set())
            await pattern._tasks.wait()
            assert len(own_tasks(before)) == MOST, "one supervisor for each host"
            pattern.idle_for(60)
            await pattern._tasks.wait()
            assert (len(pattern._hosts), own_tasks(before), pattern.budget.used) == (0, [], 0)
            assert pattern.metric("gateway_backoff_seconds") == 0
            assert dials(pattern) == MOST + len(others)
