"""Replacement of links (make before break) against a real sshd: what makes a link stale, and how old links
end.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from pathlib import Path

import pytest

from proxy.config.model import KeepaliveConfig
from proxy.relay.interfaces import Channel
from proxy.runtime.endpoint import Endpoint
from proxy.snapshots import GatewayState
from proxy.ssh.handshakes import RefusedGateway
from tests.ssh.conftest import ORIGIN, Watched, config_for, settled, started
from tests.support import ssh_keys
from tests.support.echo import Echo
from tests.support.sshd import Sshd, SshdFactory

pytestmark = [pytest.mark.sshd, pytest.mark.usefixtures("data_plane")]


async def open_channel(gateway: Watched, target: Endpoint) -> Channel:
    deadline = asyncio.get_running_loop().time() + 30
    return await gateway.open_channel(target, origin=ORIGIN, hold_until=deadline)


async def replaced(gateway: Watched, count: int) -> None:
    await gateway.until(lambda: gateway.metric("gateway_reconnects_total", reason="replaced") == count)


async def test_an_old_link_lives_as_long_as_its_channel(sshd: Sshd) -> None:
    async with Echo() as server, started(config_for(sshd)) as gateway:
        await gateway.until(lambda: gateway.links == 1)
        [old] = gateway._links
        channel = await open_channel(gateway, server.endpoint)
        gateway.renew("test")
        assert gateway.links == 1, "the old link serves until the new one is up"
        await replaced(gateway, 1)
        [new] = gateway._links
        assert (gateway.snapshot().state, gateway.snapshot().reason) == (GatewayState.UP, "")
        assert [link.channels for link in gateway.snapshot().retiring] == [1]
        assert gateway.metric("gateway_links_retiring") == 1
        other = await open_channel(gateway, server.endpoint)
        assert (old.load, new.load) == (1, 1)
        other.abort()
        channel.abort()
        await gateway.until(lambda: not gateway.snapshot().retiring)
        assert old.closed.done()
        assert not new.closed.done()
        assert gateway.metric("gateway_connects_total", result="ok") == 2
        assert gateway.metric("gateway_links_retiring") == 0


async def test_an_old_link_ends_after_retire_timeout(sshd: Sshd) -> None:
    async with Echo() as server, started(config_for(sshd, retire_timeout="50ms")) as gateway:
        await gateway.until(lambda: gateway.links == 1)
        [old] = gateway._links
        await open_channel(gateway, server.endpoint)
        gateway.renew("test")
        async with asyncio.timeout(30):
            error = await asyncio.shield(old.closed)
        assert "was replaced 0.05 s ago, and still had 1 channels" in str(error)
        await gateway.until(lambda: gateway.links == 1 and not gateway.snapshot().retiring)


async def test_there_are_never_more_than_twice_as_many_links_as_configured(sshd: Sshd) -> None:
    """Replacements are ordered again and again while no channel ends. Then the old link with the fewest
    channels is closed to make room.
    """
    async with Echo() as server, started(config_for(sshd)) as gateway:
        await gateway.until(lambda: gateway.links == 1)
        kept: list[Channel] = []
        for turn in range(1, 4):
            kept += [await open_channel(gateway, server.endpoint) for _ in range(4 - turn)]
            gateway.renew("test")
            await replaced(gateway, turn)
            await gateway.until(lambda: len(gateway.snapshot().retiring) <= 1)
            assert [link.channels for link in gateway.snapshot().retiring] == [3], (
                "the first link has the most channels"
            )
            assert await asyncio.to_thread(lambda: len(sshd.sessions())) >= 2
        for channel in kept:
            channel.abort()


async def test_a_link_that_is_too_old_is_replaced(sshd: Sshd) -> None:
    async with started(config_for(sshd, connections=2, max_link_age="300ms")) as gateway:
        await gateway.until(lambda: gateway.metric("gateway_reconnects_total", reason="replaced") >= 3)
        assert gateway.links >= 2
        assert gateway.metric("gateway_backoff_seconds") == 0


async def test_a_link_that_misses_a_keepalive_is_replaced_if_others_answer(sshd_factory: SshdFactory) -> None:
    """The link's sshd hangs. The link would be given up only after a thousand more intervals, but new clients
    already avoid it.
    """
    sshd = sshd_factory()
    config = config_for(sshd, keepalive={"interval": "300ms", "max_missed": 1000})
    async with Echo() as server, started(config) as gateway:
        await gateway.until(lambda: gateway.links == 1)
        await settled(gateway)  # the process that serves the login is there, and has answered
        [sick] = gateway._links
        frozen = await asyncio.to_thread(sshd.sessions)
        await asyncio.to_thread(sshd.signal_sessions, signal.SIGSTOP, frozen)
        supervisor = gateway._supervisor
        supervisor._config = supervisor._lifetimes._config = config.model_copy(update={"connections": 2})
        supervisor._wanted.set()
        try:
            await gateway.until(lambda: sick in gateway._links.retiring or sick.closed.done())
            await gateway.until(lambda: gateway.links == 2)
            for _ in range(4):
                (await open_channel(gateway, server.endpoint)).abort()
            assert gateway.metric("gateway_reconnects_total", reason="keepalive_timeout") == 0
        finally:
            await asyncio.to_thread(sshd.signal_sessions, signal.SIGCONT, frozen)


async def test_a_change_of_keepalive_counts_for_links_that_retire(sshd: Sshd) -> None:
    """Otherwise their clients would wait for the keepalive that was configured when the link came up."""
    config = config_for(sshd, keepalive={"interval": "1h"})
    async with Echo() as server, started(config) as gateway:
        await gateway.until(lambda: gateway.links == 1)
        [old] = gateway._links
        await open_channel(gateway, server.endpoint)
        frozen = await asyncio.to_thread(sshd.sessions)
        gateway.reconfigure(
            config.model_copy(update={"keepalive": KeepaliveConfig(interval=0.1, max_missed=30)}), {}
        )
        sock = old._conn.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1500
        await replaced(gateway, 1)
        await asyncio.to_thread(sshd.signal_sessions, signal.SIGSTOP, frozen)
        try:
            async with asyncio.timeout(30):
                error = await asyncio.shield(old.closed)
            assert error.reason == "keepalive_timeout"
        finally:
            await asyncio.to_thread(sshd.signal_sessions, signal.SIGCONT, frozen)


async def test_a_replacement_that_is_refused_leaves_the_old_link(sshd: Sshd, tmp_path: Path) -> None:
    """ssh(1) does not read known_hosts again while it is connected, either. Only `@revoked` ends the link."""
    known_hosts = sshd.known_hosts()
    right = known_hosts.read_text()
    other = ssh_keys.new_key(tmp_path / "other")
    async with Echo() as server, started(config_for(sshd, known_hosts=[str(known_hosts)])) as gateway:
        await gateway.until(lambda: gateway.links == 1)
        channel = await open_channel(gateway, server.endpoint)
        known_hosts.write_text(f"[{sshd.host}]:{sshd.port} {ssh_keys.public(other)}\n")
        gateway.renew("test")
        await gateway.until(lambda: gateway.snapshot().state is GatewayState.DEGRADED)
        assert gateway.snapshot().reason == "host_key_changed"
        assert gateway.metric("gateway_backoff_seconds") > 5
        (await open_channel(gateway, server.endpoint)).abort()
        known_hosts.write_text(right)
        gateway.renew("test")
        await replaced(gateway, 1)
        assert (gateway.snapshot().state, gateway.snapshot().reason) == (GatewayState.UP, "")

        known_hosts.write_text(
            f"@revoked [{sshd.host}]:{sshd.port} {ssh_keys.public(sshd.host_key)}\n{right}"
        )
        gateway.renew("test")
        await gateway.until(
            lambda: gateway.snapshot().state is GatewayState.DOWN and not gateway.snapshot().retiring
        )
        assert gateway.snapshot().reason == "host_key_revoked"
        assert gateway.metric("gateway_backoff_seconds") > 5
        channel.abort()


async def test_after_a_dial_with_old_files_the_next_dial_does_not_wait(sshd: Sshd, tmp_path: Path) -> None:
    """The operator corrects the key while sshd refuses the wrong one. The backoff after that refusal must not
    delay the right key.
    """
    key = tmp_path / "key"
    key.write_bytes(sshd.new_identity("stranger", authorize=False).read_bytes())
    key.chmod(0o600)
    gateway = Watched(config_for(sshd, identity_files=[str(key)]))
    dialled = asyncio.Event()
    dial = gateway._dialler.dial

    async def watched_dial(who: RefusedGateway) -> object:
        try:
            return await dial(who)
        finally:
            if not dialled.is_set():
                dialled.set()
                key.write_bytes(sshd.identity.read_bytes())
                gateway.renew("test")

    gateway._dialler.dial = watched_dial  # type: ignore[assignment,method-assign]
    gateway.start()
    try:
        await gateway.until(lambda: gateway.links == 1)
        assert gateway.metric("gateway_connects_total", result="auth_failed") == 1
    finally:
        await gateway.close()


async def test_a_lower_number_of_links_applies_at_once(sshd: Sshd) -> None:
    config = config_for(sshd, connections=3)
    async with started(config) as gateway:
        await gateway.until(lambda: gateway.links == 3)
        gateway.reconfigure(config.model_copy(update={"connections": 1}), {})
        await replaced(gateway, 1)
        await gateway.until(lambda: not gateway.snapshot().retiring)
        assert gateway.links == 1


def names(gateway: Watched) -> list[str]:
    return [link.name for link in gateway._links]


async def test_links_stay_when_settings_change_that_apply_to_open_links(sshd: Sshd) -> None:
    """More links are dialled besides them; fewer: the oldest retire, and all of their clients stay."""
    config = config_for(sshd, connections=1)
    async with Echo() as server, started(config) as gateway:
        await gateway.until(lambda: gateway.links == 1)
        channels = [await open_channel(gateway, server.endpoint)]
        gateway.adjust(config.model_copy(update={"connections": 4, "connect_timeout": 9.0}), {})
        await gateway.until(lambda: gateway.links == 4)
        assert names(gateway) == ["edge/1", "edge/2", "edge/3", "edge/4"]
        channels += [await open_channel(gateway, server.endpoint) for _ in range(7)]
        gateway.adjust(config, {})
        assert names(gateway) == ["edge/4"]
        assert [link.name for link in gateway._links.retiring] == ["edge/1", "edge/2", "edge/3"]
        assert sum(link.load for link in gateway._links.retiring) == len(channels)
        (await open_channel(gateway, server.endpoint)).abort()
        for channel in channels:
            channel.abort()
        await gateway.until(lambda: not gateway.snapshot().retiring)
        assert gateway.metric("gateway_connects_total", result="ok") == 4
        assert gateway.metric("gateway_reconnects_total", reason="replaced") == 0


async def test_an_age_that_is_set_later_counts_from_when_the_link_came_up(sshd: Sshd) -> None:
    config = config_for(sshd, max_link_age="1h")
    async with started(config) as gateway:
        await gateway.until(lambda: gateway.links == 1)
        [old] = gateway._links
        gateway.adjust(config.model_copy(update={"max_link_age": None}), {})
        old._since -= 3600
        gateway.adjust(config.model_copy(update={"max_link_age": 1800.0}), {})
        await replaced(gateway, 1)
        assert names(gateway) == ["edge/2"]


async def test_the_wait_before_a_dial_ends_when_settings_change(sshd_factory: SshdFactory) -> None:
    """The new settings may be what the dials lacked."""
    sshd = sshd_factory()
    await asyncio.to_thread(sshd.stop)
    async with started(config_for(sshd)) as gateway:
        await gateway.until(lambda: gateway.metric("gateway_connects_total", result="unreachable") >= 1)
        await asyncio.to_thread(sshd.start)
        gateway.adjust(gateway.config.model_copy(update={"connect_timeout": 20.0}), {})
        await gateway.until(lambda: gateway.links == 1)
