"""Hosts of a gateway pattern against real sshds, with the same port and different addresses in 127.0.0.0/8.

The daemon's heartbeat calls `sample`; here the test calls it, and idle time passes only in `idle_for`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from proxy.config.model import GatewayConfig
from proxy.errors import HostLimit, LinkDown, UnknownName
from proxy.metrics import Metrics
from proxy.relay.budget import MemoryBudget
from proxy.relay.interfaces import Channel
from proxy.snapshots import GatewayState
from proxy.ssh.handshakes import Handshakes
from proxy.ssh.supervision.patterns import PatternGateway
from proxy.ssh.turns import Turns
from tests.ssh.conftest import ORIGIN, config_for
from tests.support import ssh_keys
from tests.support.echo import Echo
from tests.support.sshd import Sshd, SshdFactory

pytestmark = [pytest.mark.sshd, pytest.mark.usefixtures("data_plane")]

HOSTS = tuple(f"127.0.0.{last}" for last in range(2, 8))


@pytest.fixture
def nodes(sshd_factory: SshdFactory) -> Sshd:
    """One sshd at every loopback address; its known_hosts has some of these addresses."""
    return sshd_factory(config={"ListenAddress": "0.0.0.0"})  # noqa: S104 - a test's own server


def known(sshd: Sshd, *hosts: str) -> list[str]:
    path = sshd.known_hosts()
    _, _, key = path.read_text().partition(" ")
    path.write_text("".join(f"[{host}]:{sshd.port} {key.strip()}\n" for host in hosts))
    return [str(path)]


def pattern_of(sshd: Sshd, **more: object) -> GatewayConfig:
    return config_for(
        sshd, **{"host": "{host}", "known_hosts": known(sshd, *HOSTS), "idle_timeout": "1m", **more}
    )


class Pattern(PatternGateway):
    """A pattern whose metrics can be read."""

    def __init__(self, config: GatewayConfig, gateways: Mapping[str, GatewayConfig]) -> None:
        self.registry = CollectorRegistry()
        self.budget = MemoryBudget(64 << 20, connections=1000)
        super().__init__(
            "nodes",
            config,
            gateways,
            budget=self.budget,
            turns=Turns(),
            record=Metrics(self.registry, version="").gateway("nodes"),
            handshakes=Handshakes(),
        )

    def metric(self, name: str, **labels: str) -> float | None:
        self.sample()
        return self.registry.get_sample_value(f"kubemux_{name}", {"gateway": "nodes", **labels})

    def idle_for(self, seconds: float) -> None:
        """Sample as the heartbeat would, if no client had asked for a host for that many seconds."""
        for gateway, _ in self._hosts.values():
            gateway.sample()
            gateway._supervisor._demand._last -= seconds
        self.sample()


@asynccontextmanager
async def started(
    config: GatewayConfig, gateways: Mapping[str, GatewayConfig] | None = None
) -> AsyncIterator[Pattern]:
    pattern = Pattern(config, gateways or {})
    pattern.start()
    try:
        yield pattern
    finally:
        await pattern.close()


async def ask(pattern: Pattern, host: str, server: Echo) -> Channel:
    return await pattern.way(host).open_channel(server.endpoint, origin=ORIGIN, hold_until=0.0)


async def ended(pattern: Pattern) -> None:
    async with asyncio.timeout(30):
        while any(gateway._supervisor._clients for gateway, _ in pattern._hosts.values()):
            await asyncio.sleep(0.01)


async def test_each_host_is_a_gateway_of_its_own(nodes: Sshd) -> None:
    async with Echo() as server, started(pattern_of(nodes)) as pattern:
        assert (pattern.snapshot().state, pattern.metric("on_demand_gateways")) == (GatewayState.IDLE, 0)
        assert pattern.metric("gateway_connected") is None
        channels = await asyncio.gather(*(ask(pattern, host, server) for host in HOSTS[:3]))
        snapshot = pattern.snapshot()
        assert {link.server for link in snapshot.links} == {f"{host}:{nodes.port}" for host in HOSTS[:3]}
        assert (snapshot.state, snapshot.hosts) == (GatewayState.UP, 3)
        assert pattern.way(HOSTS[0]).is_up
        assert not pattern.way(HOSTS[4]).is_up
        assert pattern.metric("on_demand_gateways") == pattern.metric("gateway_links") == 3
        assert pattern.metric("gateway_connects_total", result="ok") == 3
        assert pattern.metric("gateway_handshake_seconds_count") == 3
        for one in channels:
            one.abort()
        await ended(pattern)
        pattern.idle_for(60)
        assert (pattern.metric("on_demand_gateways"), pattern.metric("gateway_links")) == (0, 0)
        assert pattern.metric("gateway_connects_total", result="ok") == 3, (
            "the counters keep what forgotten hosts have counted"
        )
        assert pattern.metric("gateway_connected") is None
        labels = {
            value
            for family in pattern.registry.collect()
            for one in family.samples
            for value in one.labels.values()
        }
        assert not labels & set(HOSTS)
        await pattern._tasks.wait()
        assert pattern.budget.used == 0


async def test_known_hosts_is_checked_for_each_host(nodes: Sshd) -> None:
    """A host that cannot be verified does not keep other hosts from being dialled."""
    async with Echo() as server, started(pattern_of(nodes, known_hosts=known(nodes, HOSTS[0]))) as pattern:
        with pytest.raises(LinkDown) as told:
            await ask(pattern, HOSTS[1], server)
        assert getattr(told.value.__cause__, "reason", "") == "host_key_unknown"
        await ask(pattern, HOSTS[0], server)
        pattern.sample()
        snapshot = pattern.snapshot()
        assert (snapshot.state, snapshot.reason) == (GatewayState.DEGRADED, "host_key_unknown")
        assert snapshot.message.startswith(f"nodes/{HOSTS[1]}: ")


async def test_a_name_is_one_host_however_it_is_written(nodes: Sshd) -> None:
    async with Echo() as server, started(pattern_of(nodes, known_hosts=known(nodes, "localhost"))) as pattern:
        for host in ("localhost", "LOCALHOST", "localhost."):
            await ask(pattern, host, server)
        assert pattern.metric("on_demand_gateways") == 1


@pytest.mark.parametrize("host", ["-oProxyCommand=id", "a b", "$(id)", "", "..", "a/b"])
async def test_an_invalid_host_is_not_dialled(sshd: Sshd, host: str) -> None:
    async with Echo() as server, started(pattern_of(sshd)) as pattern:
        with pytest.raises(UnknownName, match="is no host"):
            await ask(pattern, host, server)
        assert not pattern._hosts


async def test_the_host_that_was_unused_for_longest_makes_room(nodes: Sshd) -> None:
    async with Echo() as server, started(pattern_of(nodes, max_hosts=2)) as pattern:
        (await ask(pattern, HOSTS[0], server)).abort()
        kept = await ask(pattern, HOSTS[1], server)
        await ended_but_one(pattern, HOSTS[0])
        await ask(pattern, HOSTS[2], server)
        assert set(pattern._hosts) == {HOSTS[1], HOSTS[2]}
        with pytest.raises(HostLimit, match="max_hosts is 2"):
            await ask(pattern, HOSTS[3], server)
        await ask(pattern, HOSTS[1], server)  # a host that is in use already needs no further place
        kept.abort()


async def ended_but_one(pattern: Pattern, host: str) -> None:
    gateway = pattern.gateway(host)
    async with asyncio.timeout(30):
        while not gateway.unused:
            await asyncio.sleep(0.01)


def known_but(sshd: Sshd, wrong: str, other: Path) -> list[str]:
    """A known_hosts that has another key for one host, and the server's key for all others."""
    path = Path(known(sshd, *HOSTS)[0])
    name = f"[{wrong}]:{sshd.port}"
    lines = [line for line in path.read_text().splitlines() if not line.startswith(name)]
    path.write_text("\n".join([*lines, f"{name} {ssh_keys.public(ssh_keys.new_key(other))}", ""]))
    return [str(path)]


async def test_one_host_with_another_key_is_refused_and_no_other(nodes: Sshd, tmp_path: Path) -> None:
    config = pattern_of(nodes, known_hosts=known_but(nodes, HOSTS[1], tmp_path / "other"))
    async with Echo() as server, started(config) as pattern:
        results = await asyncio.gather(
            *(ask(pattern, host, server) for host in HOSTS), return_exceptions=True
        )
        refused = [host for host, result in zip(HOSTS, results, strict=True) if isinstance(result, LinkDown)]
        assert refused == [HOSTS[1]]
        assert pattern.metric("gateway_connects_total", result="host_key_changed") == 1
        assert pattern.metric("gateway_connects_total", result="ok") == len(HOSTS) - 1


async def test_jump_hosts_are_passed_for_each_host(nodes: Sshd, sshd_factory: SshdFactory) -> None:
    """By `jump`, with each hop's own host key; one of the two jump hosts is then gone."""
    first, second = sshd_factory(), sshd_factory()
    gateways = {"first": config_for(first), "second": config_for(second, jump=["first"])}
    async with Echo() as server, started(pattern_of(nodes, jump=["second"]), gateways) as pattern:
        await asyncio.gather(*(ask(pattern, host, server) for host in HOSTS[:2]))
        assert {link.server for link in pattern.snapshot().links} == {
            f"{host}:{nodes.port}" for host in HOSTS[:2]
        }
        for hop in (first, second):
            assert (await asyncio.to_thread(hop.log)).count("Accepted publickey") == 2
        await asyncio.to_thread(first.stop)
        with pytest.raises(LinkDown) as told:
            await ask(pattern, HOSTS[2], server)
        assert getattr(told.value.__cause__, "reason", "") == "jump_failed"
        assert f"{first.host}:{first.port}" in str(told.value.__cause__)


async def test_a_rule_of_ssh_config_may_name_the_jump_host(nodes: Sshd, sshd: Sshd, tmp_path: Path) -> None:
    path = tmp_path / "ssh_config"
    path.write_text(
        f"Host 127.0.0.3\n  ProxyJump {sshd.host}:{sshd.port}\n"
        f"Host *\n  UserKnownHostsFile {sshd.known_hosts()} {known(nodes, *HOSTS)[0]}\n"
    )
    with (sshd.folder / "authorized_keys").open("a") as file:
        file.write(f"{ssh_keys.public(nodes.identity)}\n")
    own = {"known_hosts": [], "ssh_config": str(path)}
    async with Echo() as server, started(pattern_of(nodes, **own)) as pattern:
        await asyncio.gather(*(ask(pattern, host, server) for host in HOSTS[:2]))
        assert len(pattern.snapshot().links) == 2
        assert (await asyncio.to_thread(sshd.log)).count("Accepted publickey") == 1


async def test_host_keys_are_learned_for_the_host_that_has_announced_them(
    sshd_factory: SshdFactory, tmp_path: Path
) -> None:
    more = ssh_keys.new_key(tmp_path / "ecdsa", kind="ecdsa")
    everywhere = {"ListenAddress": "0.0.0.0"}  # noqa: S104 - a test's own server
    nodes = sshd_factory(config=everywhere)
    nodes.reconfigure({**everywhere, "HostKey": f"{nodes.host_key}\nHostKey {more}"})
    await asyncio.to_thread(nodes.restart)
    file = tmp_path / "learned"
    config = pattern_of(nodes, known_hosts=known(nodes, HOSTS[0]), learned_host_keys=str(file))
    async with Echo() as server, started(config) as pattern:
        await ask(pattern, HOSTS[0], server)
        async with asyncio.timeout(60):
            while not file.exists():
                await asyncio.sleep(0.01)
    [line] = file.read_text().splitlines()
    assert line.startswith(f"[{HOSTS[0]}]:{nodes.port} {ssh_keys.public(more)} vouched-for-by ")
    nodes.reconfigure({**everywhere, "HostKey": str(more)})
    await asyncio.to_thread(nodes.restart)
    async with Echo() as server, started(config) as pattern:
        await ask(pattern, HOSTS[0], server)
        with pytest.raises(LinkDown):
            await ask(pattern, HOSTS[1], server)


async def test_a_missing_key_is_reported_for_each_host_and_a_new_one_is_read(
    nodes: Sshd, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    config = pattern_of(nodes, identity_files=[str(key)])
    async with Echo() as server, started(config) as pattern:
        for host in HOSTS[:2]:
            with pytest.raises(LinkDown) as told:
                await ask(pattern, host, server)
            assert getattr(told.value.__cause__, "reason", "") == "credentials_unusable"
        key.touch(mode=0o600)
        key.write_bytes(nodes.identity.read_bytes())
        await ask(pattern, HOSTS[2], server)
        pattern.renew("files changed")
        await ask(pattern, HOSTS[0], server)


async def test_a_lower_max_hosts_takes_effect_with_the_next_new_host(nodes: Sshd) -> None:
    async with Echo() as server, started(pattern_of(nodes, max_hosts=5)) as pattern:
        for host in HOSTS[:4]:
            (await ask(pattern, host, server)).abort()
        await ended(pattern)
        before = pattern.known(HOSTS[3])
        pattern.adjust(pattern.config.model_copy(update={"max_hosts": 2}), {})
        assert (len(pattern._hosts), pattern.known(HOSTS[3])) == (4, before), "nobody is sent away for that"
        for gateway, _ in pattern._hosts.values():
            gateway.sample()
            gateway._supervisor._demand._last -= 1
        await ask(pattern, HOSTS[4], server)
        assert len(pattern._hosts) == 2
        assert pattern.metric("gateway_reconnects_total", reason="replaced") in {None, 0}


async def test_settings_and_orders_reach_every_host_in_use(nodes: Sshd) -> None:
    async with Echo() as server, started(pattern_of(nodes)) as pattern:
        await asyncio.gather(*(ask(pattern, host, server) for host in HOSTS[:2]))
        pattern.reconfigure(pattern.config.model_copy(update={"retire_timeout": 1.0}), {})
        async with asyncio.timeout(60):
            while pattern.metric("gateway_reconnects_total", reason="replaced") != 2:
                await asyncio.sleep(0.01)
        assert {gateway.config.retire_timeout for gateway, _ in pattern._hosts.values()} == {1.0}
        assert {gateway.config.host for gateway, _ in pattern._hosts.values()} == set(HOSTS[:2])
        pattern.renew("test")
        async with asyncio.timeout(60):
            while pattern.metric("gateway_reconnects_total", reason="replaced") != 4:
                await asyncio.sleep(0.01)


async def test_a_removed_pattern_drains_and_accepts_no_client(nodes: Sshd) -> None:
    async with Echo() as server, started(pattern_of(nodes)) as pattern:
        one = await ask(pattern, HOSTS[0], server)
        draining = asyncio.get_running_loop().create_task(pattern.drain(60), name="drain")
        while not pattern._is_closing:
            await asyncio.sleep(0)
        with pytest.raises(LinkDown, match="no longer configured"):
            await ask(pattern, HOSTS[1], server)
        assert not draining.done()
        one.abort()
        async with asyncio.timeout(60):
            await draining
        assert not pattern.is_up


async def test_ssh_config_is_asked_about_the_host_that_was_asked_for(nodes: Sshd, tmp_path: Path) -> None:
    path = tmp_path / "ssh_config"
    path.write_text(
        f"Host node-a\n  HostName 127.0.0.2\n  Port {nodes.port}\n"
        f"Host *\n  ProxyCommand sh -c 'echo %n >> {tmp_path}/asked; exec nc %h %p'\n"
        f"  IdentityFile {nodes.identity}\n  UserKnownHostsFile {known(nodes, '127.0.0.2')[0]}\n"
    )
    own: dict[str, object] = {"identity_files": [], "known_hosts": [], "ssh_config": str(path), "port": None}
    async with Echo() as server, started(pattern_of(nodes, **own)) as pattern:
        await ask(pattern, "node-a", server)
        assert [link.server for link in pattern.snapshot().links] == [f"127.0.0.2:{nodes.port}"]
        with pytest.raises(UnknownName):
            await ask(pattern, "node-a;id", server)
    assert (tmp_path / "asked").read_text() == "node-a\n"


async def test_clients_that_wait_go_on_with_the_pattern_that_replaces_theirs(nodes: Sshd) -> None:
    with socket.create_server(("", 0)) as silent:  # it is every host, and never answers
        patient = {"connect_timeout": "1m"}
        async with (
            Echo() as server,
            started(pattern_of(nodes, port=silent.getsockname()[1], **patient)) as old,
            started(pattern_of(nodes, **patient)) as new,
        ):
            loop = asyncio.get_running_loop()
            waiting = [loop.create_task(ask(old, host, server)) for host in HOSTS[:2]]
            async with asyncio.timeout(30):
                while sum(gateway._waiting.count for gateway, _ in old._hosts.values()) < 2:
                    await asyncio.sleep(0)
            old.give_way(new)
            await old.drain(0)
            for channel in await asyncio.gather(*waiting):
                channel.abort()
            assert {link.server for link in new.snapshot().links} == {
                f"{host}:{nodes.port}" for host in HOSTS[:2]
            }
            await ended(new)
