"""Gateways with `dial: on_demand` against a real sshd: when they dial, how long clients wait, when links
close.

The daemon's heartbeat calls `sample`; here the test calls it, and idle time passes only in `idle_for`.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

import pytest

from proxy.errors import LinkDown, Unreachable
from proxy.relay.interfaces import Channel
from proxy.runtime.endpoint import Endpoint
from proxy.snapshots import GatewayState
from tests.ssh.conftest import ORIGIN, Watched, config_for, started
from tests.support.echo import Echo
from tests.support.ports import free_port
from tests.support.sshd import Sshd, SshdFactory

pytestmark = [pytest.mark.sshd, pytest.mark.usefixtures("data_plane")]

NOWHERE = Endpoint("127.0.0.1", 1)


async def channel(gateway: Watched, target: Endpoint, *, is_needed: bool = True) -> Channel:
    """A channel for a client with a `hold_timeout` of 0."""
    return await gateway.open_channel(target, origin=ORIGIN, hold_until=0.0, is_needed=is_needed)


def client(gateway: Watched, target: Endpoint) -> asyncio.Task[Channel]:
    return asyncio.get_running_loop().create_task(channel(gateway, target), name="client")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


def state(gateway: Watched) -> GatewayState:
    return gateway.snapshot().state


def connected(gateway: Watched) -> float | None:
    return gateway.registry.get_sample_value("kubemux_gateway_connected", {"gateway": "edge"})


def idle_for(gateway: Watched, seconds: float) -> None:
    """Sample as the heartbeat would, if the last client had left that many seconds ago."""
    gateway._supervisor._demand._last -= seconds
    gateway.sample()


async def test_the_first_client_dials_and_the_end_of_the_last_closes(sshd: Sshd) -> None:
    config = config_for(sshd, dial="on_demand", idle_timeout="1h")
    async with Echo() as server, started(config) as gateway:
        gateway.sample()
        assert (state(gateway), gateway.links, connected(gateway)) == (GatewayState.IDLE, 0, None)
        assert gateway.is_idle
        clients = [client(gateway, server.endpoint) for _ in range(5)]
        channels = await asyncio.gather(*clients)
        assert (state(gateway), gateway.links, connected(gateway)) == (GatewayState.UP, 1, 1)
        assert gateway.metric("gateway_connects_total", result="ok") == 1, (
            "all clients waited for the same dial"
        )
        idle_for(gateway, 7200)
        assert gateway.links == 1, "the link stays while there are clients"
        for one in channels:
            one.abort()
        await until(lambda: gateway.channels == 0)
        gateway.sample()
        idle_for(gateway, 1800)
        assert gateway.links == 1
        idle_for(gateway, 3600)
        assert (state(gateway), gateway.links, connected(gateway)) == (GatewayState.IDLE, 0, None)
        assert gateway.snapshot().reason == ""
        await until(lambda: not gateway.snapshot().retiring)
        (await channel(gateway, server.endpoint)).abort()
        assert gateway.metric("gateway_connects_total", result="ok") == 2
        assert gateway.metric("gateway_reconnects_total", reason="closed") == 0, (
            "an idle link that is closed does not count as lost"
        )


async def test_an_unused_gateway_is_not_dialled(sshd: Sshd) -> None:
    """Neither a probe nor an order nor changed files or settings start a dial; and its listeners do not
    refuse.
    """
    async with started(config_for(sshd, dial="on_demand")) as gateway:
        with pytest.raises(LinkDown):
            await channel(gateway, NOWHERE, is_needed=False)
        gateway.renew("reconnect")
        gateway.reconfigure(gateway.config.model_copy(update={"connections": 4}), {})
        for _ in range(5):
            gateway.sample()
            await asyncio.sleep(0)
        assert gateway.metric("gateway_connects_total", result="ok") == 0
        assert state(gateway) is GatewayState.IDLE
        assert not gateway.is_given_up(0)
    assert "Accepted" not in await asyncio.to_thread(sshd.log)


async def test_a_failed_dial_ends_all_waiting_clients_and_those_before_the_next_dial(
    sshd: Sshd,
) -> None:
    dead = config_for(sshd, dial="on_demand", user="nobody")
    async with started(dead) as gateway:
        waiting = [client(gateway, NOWHERE) for _ in range(3)]
        for failure in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(failure, LinkDown)
            assert failure.__cause__ is not None
            assert getattr(failure.__cause__, "reason", "") == "auth_failed"
        assert (state(gateway), connected(gateway)) == (GatewayState.DOWN, 0)
        assert not gateway.is_idle
        assert not gateway.is_given_up(0), (
            "the listener does not refuse: the next client may come when a dial is due"
        )
        with pytest.raises(LinkDown, match="the next may begin in"):
            await channel(gateway, NOWHERE)
        assert gateway.metric("gateway_connects_total", result="auth_failed") == 1
        gateway._supervisor.dial_now()
        gateway.sample()
        assert (state(gateway), connected(gateway)) == (GatewayState.IDLE, None), (
            "there are no clients, so no dial is due"
        )
        assert gateway.snapshot().reason == "auth_failed", (
            "the status says why the last client was not served"
        )
        with pytest.raises(LinkDown, match="its dial has failed"):
            await channel(gateway, NOWHERE)
        assert gateway.metric("gateway_connects_total", result="auth_failed") == 2


async def test_a_gateway_that_comes_back_serves_the_next_client(sshd_factory: SshdFactory) -> None:
    sshd = sshd_factory()
    await asyncio.to_thread(sshd.stop)
    async with Echo() as server, started(config_for(sshd, dial="on_demand")) as gateway:
        with pytest.raises(LinkDown) as told:
            await channel(gateway, server.endpoint)
        assert isinstance(told.value.__cause__, Unreachable)
        assert gateway._supervisor._clients == 0, "nobody waits any more: no further dial is for this client"
        await asyncio.to_thread(sshd.start)

        def is_due() -> bool:
            gateway.sample()
            return gateway.snapshot().retry_in is None

        await until(is_due)
        assert gateway.metric("gateway_connects_total", result="ok") == 0
        (await channel(gateway, server.endpoint)).abort()
        assert state(gateway) is GatewayState.UP


async def test_a_client_waits_for_connect_timeout_and_no_longer(sshd: Sshd) -> None:
    """The dial continues, and the next client uses its link."""
    async with (
        Echo() as server,
        started(config_for(sshd, dial="on_demand", connect_timeout="60s")) as gateway,
    ):
        await asyncio.to_thread(sshd.pause)
        try:
            gateway.config = gateway.config.model_copy(update={"connect_timeout": 0.2})
            with pytest.raises(LinkDown, match="no link yet"):
                await channel(gateway, server.endpoint)
            assert state(gateway) is GatewayState.CONNECTING
        finally:
            await asyncio.to_thread(sshd.resume)
        await gateway.until(lambda: gateway.links == 1)
        gateway.config = gateway.config.model_copy(update={"connect_timeout": 60.0})
        (await channel(gateway, server.endpoint)).abort()
        assert gateway.metric("gateway_connects_total", result="ok") == 1


async def test_a_client_that_leaves_does_not_end_the_dial_of_the_others(sshd: Sshd) -> None:
    async with Echo() as server, started(config_for(sshd, dial="on_demand")) as gateway:
        leaver, stayer = client(gateway, server.endpoint), client(gateway, server.endpoint)
        await asyncio.sleep(0)
        leaver.cancel()
        (await stayer).abort()
        assert leaver.cancelled()
        assert gateway.metric("gateway_connects_total", result="ok") == 1


async def test_more_links_are_dialled_only_for_more_clients(sshd: Sshd) -> None:
    config = config_for(sshd, dial="on_demand", connections=3)
    async with Echo() as server, started(config) as gateway:
        first = await channel(gateway, server.endpoint)
        gateway.sample()
        assert (gateway.links, state(gateway)) == (1, GatewayState.UP), "one client needs one link"
        second = await channel(gateway, server.endpoint)
        await gateway.until(lambda: gateway.links == 2)
        first.abort()
        second.abort()
        await until(lambda: gateway.channels == 0)
        gateway.sample()
        assert gateway.links == 2, "links stay until the gateway is idle"


async def test_a_probe_keeps_no_link_up(sshd: Sshd) -> None:
    config = config_for(sshd, dial="on_demand", idle_timeout="1m")
    async with Echo() as server, started(config) as gateway:
        one = await channel(gateway, server.endpoint)
        probe = await channel(gateway, server.endpoint, is_needed=False)
        one.abort()
        await until(lambda: gateway.channels == 1)
        gateway.sample()
        idle_for(gateway, 60)
        assert (gateway.links, state(gateway)) == (0, GatewayState.IDLE)
        await until(lambda: not gateway.snapshot().retiring)
        probe.abort()
        assert gateway.budget.used == 0


async def test_a_link_that_is_lost_unused_is_not_dialled_again(sshd_factory: SshdFactory) -> None:
    sshd = sshd_factory()
    async with Echo() as server, started(config_for(sshd, dial="on_demand")) as gateway:
        (await channel(gateway, server.endpoint)).abort()
        await until(lambda: gateway.channels == 0)
        await asyncio.to_thread(sshd.restart)
        await gateway.until(lambda: gateway.links == 0)
        gateway.sample()
        assert (state(gateway), connected(gateway)) == (GatewayState.IDLE, None)
        assert gateway.snapshot().reason == "", "no client needs the link"
        (await channel(gateway, server.endpoint)).abort()
        assert gateway.metric("gateway_connects_total", result="ok") == 2


async def test_a_link_lost_in_use_is_dialled_for_waiting_clients(sshd_factory: SshdFactory) -> None:
    """The wait after a loss does not follow a failed dial, so a client that comes meanwhile is
    not refused.
    """
    sshd = sshd_factory()
    async with Echo() as server, started(config_for(sshd, dial="on_demand")) as gateway:
        await channel(gateway, server.endpoint)
        await asyncio.to_thread(sshd.restart)
        await gateway.until(lambda: gateway.links == 0)
        (await channel(gateway, server.endpoint)).abort()
        assert gateway.metric("gateway_reconnects_total", reason="link_lost") == 1


async def test_a_link_that_is_kept_unused_still_gets_keepalives(sshd: Sshd) -> None:
    """Otherwise the next client would get a dead link."""
    config = config_for(sshd, dial="on_demand", keepalive={"interval": "500ms", "max_missed": 5})
    async with Echo() as server, started(config) as gateway:
        (await channel(gateway, server.endpoint)).abort()
        await until(lambda: gateway.channels == 0)
        dials = gateway.metric("gateway_connects_total", result="ok")
        frozen = await asyncio.to_thread(sshd.sessions)
        await asyncio.to_thread(sshd.signal_sessions, signal.SIGSTOP, frozen)
        try:
            await gateway.until(lambda: gateway.links == 0)
            gateway.sample()
            assert (state(gateway), gateway.snapshot().reason) == (GatewayState.IDLE, "")
            (await channel(gateway, server.endpoint)).abort()
            assert gateway.metric("gateway_connects_total", result="ok") == dials + 1
        finally:
            await asyncio.to_thread(sshd.signal_sessions, signal.SIGCONT, frozen)


async def test_links_in_use_are_replaced_and_others_closed(sshd: Sshd) -> None:
    """After changed keys or settings, an order, or at its maximum age: the next client gets a link with the
    present keys and settings. Without clients no link is dialled.
    """
    config = config_for(sshd, dial="on_demand", connections=2)
    async with Echo() as server, started(config) as gateway:
        one = await channel(gateway, server.endpoint)
        gateway.renew("test")
        await gateway.until(lambda: gateway.metric("gateway_reconnects_total", reason="replaced") == 1)
        assert [link.channels for link in gateway.snapshot().retiring] == [1]
        assert gateway.links == 1
        one.abort()
        await until(lambda: not gateway.snapshot().retiring)
        gateway.renew("test")
        await until(lambda: gateway.unused > 0)
        gateway.sample()
        assert (gateway.links, state(gateway)) == (0, GatewayState.IDLE)
        assert gateway.metric("gateway_connects_total", result="ok") == 2
        (await channel(gateway, server.endpoint)).abort()
        assert gateway.metric("gateway_connects_total", result="ok") == 3


async def test_an_old_link_is_replaced_for_clients_alone(sshd: Sshd) -> None:
    config = config_for(
        sshd, dial="on_demand", connections=2, max_link_age="300ms", keepalive={"interval": "1s"}
    )
    async with Echo() as server, started(config) as gateway:
        one = await channel(gateway, server.endpoint)
        await gateway.until(lambda: gateway.metric("gateway_reconnects_total", reason="replaced") >= 1)
        one.abort()
        await until(lambda: not gateway.snapshot().retiring and gateway.channels == 0)
        # A dial for the client that has left may still be under way.
        await until(lambda: bool(gateway._links.stale) and gateway.unused > 0)
        gateway.sample()
        assert gateway.links == 0


async def test_a_reload_may_change_between_always_and_on_demand(sshd: Sshd) -> None:
    async with Echo() as server, started(config_for(sshd, connections=2)) as gateway:
        await gateway.until(lambda: gateway.links == 2)
        one = await channel(gateway, server.endpoint)
        gateway.reconfigure(gateway.config.model_copy(update={"dial": "on_demand"}), {})
        await gateway.until(lambda: gateway.metric("gateway_reconnects_total", reason="replaced") >= 1)
        one.abort()
        await until(lambda: gateway._supervisor._clients == 0)
        gateway.sample()
        idle_for(gateway, 3600)
        assert state(gateway) is GatewayState.IDLE
        gateway.reconfigure(gateway.config.model_copy(update={"dial": "always"}), {})
        await gateway.until(lambda: gateway.links == 2)
        assert state(gateway) is GatewayState.UP


async def test_a_gateway_that_was_idle_for_long_is_not_given_up_when_it_is_to_be_dialled_always(
    sshd: Sshd,
) -> None:
    """The gateway's outage counts from the reload on."""
    config = config_for(sshd, dial="on_demand", port=free_port())
    async with started(config) as gateway:
        gateway._waiting._outage._since = -3600.0
        gateway.reconfigure(gateway.config.model_copy(update={"dial": "always"}), {})
        await gateway.until(lambda: gateway.snapshot().reason == "unreachable")
        assert not gateway.is_given_up(60)
        assert gateway.is_given_up(0)


async def test_draining_an_idle_gateway_ends_at_once(sshd: Sshd) -> None:
    async with started(config_for(sshd, dial="on_demand")) as gateway:
        async with asyncio.timeout(30):
            await gateway.drain(3600)
        assert state(gateway) is GatewayState.IDLE
