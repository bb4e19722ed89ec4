"""Supervision of links against a real sshd, in the test's loop: losses, waiting clients, replacement,
messages.
"""

from __future__ import annotations

import asyncio
import socket
import time
from typing import cast

import pytest

from proxy.config.model import GatewayConfig
from proxy.errors import AuthFailed, LinkDown, LinkError
from proxy.relay.interfaces import Channel
from proxy.relay.probing import relayed_socket
from proxy.runtime.endpoint import Endpoint
from proxy.snapshots import GatewayState
from proxy.ssh.governor import Backoff
from proxy.ssh.link import Link
from tests.ssh.conftest import ORIGIN, Watched, config_for, started
from tests.support import ssh_keys
from tests.support.echo import Echo, Source
from tests.support.sshd import Sshd, SshdFactory

pytestmark = [pytest.mark.sshd, pytest.mark.usefixtures("data_plane")]


LARGE = 20_000_000
"""Bytes of a download; too many to count as a short request."""


def open_channel(gateway: Watched, target: Endpoint, *, hold: float = 60.0) -> asyncio.Task[Channel]:
    deadline = asyncio.get_running_loop().time() + hold
    return asyncio.get_running_loop().create_task(
        gateway.open_channel(target, origin=ORIGIN, hold_until=deadline), name="client"
    )


async def test_every_link_comes_up_and_clusters_are_spread(sshd: Sshd) -> None:
    async with (
        Echo() as one,
        Echo() as two,
        Echo() as three,
        started(config_for(sshd, connections=3)) as gateway,
    ):
        await gateway.until(lambda: gateway.links == 3)
        channels = [
            await open_channel(gateway, server.endpoint) for server in (one, two, three, one, two, three)
        ]
        assert [link.channels for link in gateway.snapshot().links] == [2, 2, 2]
        assert gateway.snapshot().state is GatewayState.UP
        assert (gateway.metric("gateway_links"), gateway.metric("gateway_connected")) == (3, 1)
        assert gateway.metric("gateway_connects_total", result="ok") == 3
        assert gateway.metric("gateway_handshake_seconds_count") == 3
        for channel in channels:
            channel.abort()
        async with asyncio.timeout(30):
            await asyncio.gather(*(link.idle.wait() for link in gateway._links))
        assert gateway.budget.used == 0


async def test_a_client_that_comes_while_the_link_is_down_gets_the_next_one(sshd: Sshd) -> None:
    async with Echo() as server, started(config_for(sshd)) as gateway:
        await gateway.until(lambda: gateway.links == 1)
        await asyncio.to_thread(sshd.stop)
        await gateway.until(lambda: gateway.links == 0)
        waiting = open_channel(gateway, server.endpoint)
        await asyncio.to_thread(sshd.start)
        (await waiting).abort()
        assert gateway.metric("gateway_reconnects_total", reason="link_lost") == 1


async def test_clients_get_the_reason_when_no_link_comes_in_time(sshd: Sshd) -> None:
    async with started(config_for(sshd, user="nobody")) as gateway:
        await gateway.until(lambda: gateway.snapshot().state is GatewayState.DOWN)
        with pytest.raises(LinkDown, match="gateway edge has no link") as told:
            await open_channel(gateway, Endpoint("127.0.0.1", 1), hold=0.05)
        assert isinstance(told.value.__cause__, AuthFailed)
        assert gateway.metric("gateway_backoff_seconds") > 5
        assert gateway.metric("gateway_connects_total", result="auth_failed") == 1


async def test_clients_that_leave_do_not_hide_the_end_of_a_link_from_others(
    sshd_factory: SshdFactory,
) -> None:
    """Many clients wait for a link's end, and some of them are cancelled at that moment.

    The others see the end nevertheless.
    """
    sshd = sshd_factory()
    async with Echo() as server, started(config_for(sshd)) as gateway:
        await gateway.until(lambda: gateway.links == 1)
        await asyncio.to_thread(sshd.pause)
        clients = [open_channel(gateway, server.endpoint) for _ in range(20)]
        await asyncio.sleep(0)
        stop = asyncio.get_running_loop().create_task(asyncio.to_thread(sshd.stop), name="stop sshd")
        async with gateway.changed:
            for turn in range(50):
                clients[turn % 20].cancel() if turn % 2 else None
                await asyncio.sleep(0)
        await stop
        await gateway.until(lambda: gateway.links == 0)
        await asyncio.to_thread(sshd.start)
        served = await asyncio.gather(*clients, return_exceptions=True)
        channels = [result for result in served if not isinstance(result, BaseException)]
        assert {type(result) for result in served if result not in channels} == {asyncio.CancelledError}
        for channel in channels:
            channel.abort()
        async with asyncio.timeout(30):
            await gateway._links[0].idle.wait()
        assert gateway.budget.used == 0


class Dying:
    """A link that no longer opens channels, and has not ended yet."""

    load = 0
    weight = 0

    def __init__(self) -> None:
        self.closed: asyncio.Future[LinkError] = asyncio.get_running_loop().create_future()
        self.asked = asyncio.Event()

    async def open_channel(self, *_: object, **__: object) -> Channel:
        self.asked.set()
        raise LinkDown("the link was lost while a channel was opened")

    async def close(self) -> None:
        """Nothing to close."""


async def test_the_next_channel_avoids_a_link_with_a_download(sshd: Sshd) -> None:
    loop = asyncio.get_running_loop()
    async with Source() as server, started(config_for(sshd, connections=2)) as gateway:
        await gateway.until(lambda: gateway.links == 2)
        with await relayed_socket(await open_channel(gateway, server.endpoint), gateway.budget) as client:
            home, other = sorted(gateway._links, key=lambda link: -link.load)
            await open_channel(gateway, server.endpoint)
            assert (home.load, other.load) == (2, 0), "the counters do not move"
            await loop.sock_sendall(client, b"%d\n" % LARGE)
            left = LARGE
            while left:
                left -= len(await loop.sock_recv(client, LARGE))
            gateway.sample()
            await open_channel(gateway, server.endpoint)
            assert (home.load, other.load) == (2, 1)
            gateway.sample()
            await open_channel(gateway, server.endpoint)
            assert (home.load, other.load) == (2, 2), "a target does not move back without a reason"


async def test_a_client_that_leaves_does_not_cancel_the_end_that_others_wait_for(sshd: Sshd) -> None:
    gateway, link = Watched(config_for(sshd)), Dying()
    gateway._links.add(cast("Link", link), 0)
    gateway._waiting.up.set()
    client = open_channel(gateway, Endpoint("127.0.0.1", 1))
    await link.asked.wait()
    await asyncio.sleep(0)
    client.cancel()
    with pytest.raises(asyncio.CancelledError):
        await client
    assert not link.closed.cancelled()
    with pytest.raises(LinkDown):
        await open_channel(gateway, Endpoint("127.0.0.1", 1), hold=0.05)
    await gateway.close()


async def test_no_client_finds_a_gateway_without_links_up(sshd_factory: SshdFactory) -> None:
    """Clients arrive at each turn of the loop while links are replaced."""
    sshd = sshd_factory()
    async with Echo() as server, started(config_for(sshd, connections=2)) as gateway:
        await gateway.until(lambda: gateway.links == 2)
        clients: list[asyncio.Task[Channel]] = []
        for _ in range(3):
            gateway.renew("test")
            while gateway._links.stale:
                assert gateway.links >= 2
                if len(clients) < 300:
                    clients.append(open_channel(gateway, server.endpoint))
                await asyncio.sleep(0)
        for channel in await asyncio.gather(*clients):
            channel.abort()
        # asyncio reports an error if a handler is cancelled before it begins.
        await server.wait_accepted(len(clients))
        await gateway.until(lambda: not gateway.snapshot().retiring)
        async with asyncio.timeout(30):
            await asyncio.gather(*(link.idle.wait() for link in gateway._links))
        assert gateway.budget.used == 0
        assert gateway.metric("gateway_reconnects_total", reason="replaced") == 6


async def test_renewing_skips_the_backoff_once(sshd: Sshd) -> None:
    async with started(config_for(sshd, user="nobody")) as gateway:
        await gateway.until(lambda: gateway.metric("gateway_connects_total", result="auth_failed") == 1)
        gateway.renew("test")
        await gateway.until(lambda: gateway.metric("gateway_connects_total", result="auth_failed") == 2)
        assert gateway.metric("gateway_backoff_seconds") > 5


async def test_an_outage_of_all_links_counts_as_one_failure(sshd: Sshd) -> None:
    """The number of lost links does not matter: the first redial comes as early as after one lost link."""

    class Counting(Backoff):
        losses = 0

        def lost(self, age: float) -> float:
            self.losses += 1
            super().lost(age)
            return 60.0  # no dial begins while the other links are being lost

        def unused(self) -> float:
            return self.lost(0.0)  # the end of a link that carried nothing for a second looks like that

    async with started(config_for(sshd, connections=4)) as gateway:
        await gateway.until(lambda: gateway.links == 4)
        gateway._supervisor.retry.backoff = counting = Counting()
        await asyncio.to_thread(sshd.restart)
        await gateway.until(lambda: gateway.links == 0)
        assert counting.losses == 1
        gateway.renew("test")
        await gateway.until(lambda: gateway.links == 4)
        assert gateway.metric("gateway_reconnects_total", reason="link_lost") == 4


async def test_expiring_certificates_are_reported(sshd_factory: SshdFactory) -> None:
    """The gauge shows our certificate's and the server's end, until a link comes up without certificates."""
    sshd = sshd_factory(host_certificate=True)
    key, certificate = sshd.new_certificate()
    known_hosts = [str(sshd.known_hosts(authority=True))]
    name = "gateway_credential_expiry_timestamp_seconds"
    async with started(config_for(sshd, identity_files=[str(key)], known_hosts=known_hosts)) as gateway:
        await gateway.until(lambda: gateway.links == 1)
        for kind in ("user", "host"):
            assert 3000 < gateway.metric(name, kind=kind) - time.time() < 3700
        assert gateway.snapshot().certificate_expiry in {
            gateway.metric(name, kind=kind) for kind in ("user", "host")
        }
        certificate.unlink()
        with (sshd.folder / "authorized_keys").open("a") as file:
            file.write(f"{ssh_keys.public(key)}\n")
        config = gateway.config.model_copy(update={"known_hosts": (sshd.known_hosts(),)})
        gateway.reconfigure(config, {})
        await gateway.until(lambda: gateway.metric("gateway_reconnects_total", reason="replaced") == 1)
        assert {gateway.metric(name, kind=kind) for kind in ("user", "host")} == {0}
        assert gateway.snapshot().certificate_expiry is None


async def test_draining_waits_for_channels_and_updates_no_metrics(sshd: Sshd) -> None:
    """A reload may have replaced it by another gateway of the same name, so it must not change these metrics
    any more.
    """
    async with Echo() as server, started(config_for(sshd)) as gateway:
        await gateway.until(lambda: gateway.links == 1)
        channel = await open_channel(gateway, server.endpoint)
        draining = asyncio.get_running_loop().create_task(gateway.drain(60), name="drain")
        await asyncio.sleep(0.05)
        assert not draining.done()
        channel.abort()
        async with asyncio.timeout(30):
            await draining
        assert gateway.links == 0
        assert gateway.metric("gateway_connected") == 1
        with pytest.raises(LinkDown):
            await open_channel(gateway, server.endpoint, hold=0.01)


async def test_a_gateway_that_was_removed_gets_no_metrics_again(sshd: Sshd) -> None:
    """The links of the gateway stay for a while: they still send keepalives, and may be lost."""
    keepalive = {"interval": "200ms", "max_missed": 100}
    async with Echo() as server, started(config_for(sshd, keepalive=keepalive)) as gateway:
        await gateway.until(lambda: gateway.links == 1)
        await open_channel(gateway, server.endpoint)
        draining = asyncio.get_running_loop().create_task(gateway.drain(60), name="drain")
        while not gateway._supervisor._is_closing:
            await asyncio.sleep(0)
        gateway.metrics.forget_gateway("edge")
        (link,) = gateway._links
        link._keepalive.rtt = None
        async with asyncio.timeout(30):
            while link.snapshot().rtt is None:
                await asyncio.sleep(0.01)
        await asyncio.to_thread(sshd.stop)
        async with asyncio.timeout(30):
            await draining
        series = ("gateway_rtt_seconds", "gateway_backoff_seconds", "gateway_links", "gateway_connected")
        assert {
            gateway.registry.get_sample_value(f"kubemux_{name}", {"gateway": "edge"}) for name in series
        } == {None}


async def test_closing_at_any_moment_leaves_no_session(sshd_factory: SshdFactory) -> None:
    sshd = sshd_factory(config={"MaxStartups": "1000"})
    for turns in range(0, 200, 9):
        async with started(config_for(sshd, connections=2)):
            for _ in range(turns):
                await asyncio.sleep(0)
    async with asyncio.timeout(30):
        while await asyncio.to_thread(sshd.sessions):
            await asyncio.sleep(0.01)


async def test_a_silent_server_is_given_up_with_max_missed_1_too(sshd: Sshd) -> None:
    keepalive = {"interval": "2s", "max_missed": 1}
    async with started(config_for(sshd, keepalive=keepalive, connect_timeout="5s")) as gateway:
        await gateway.until(lambda: gateway.links == 1)
        await asyncio.to_thread(sshd.pause)
        try:
            await gateway.until(lambda: gateway.links == 0)
            assert gateway.snapshot().reason == "keepalive_timeout"
        finally:
            await asyncio.to_thread(sshd.resume)
        await gateway.until(lambda: gateway.links == 1)
        assert gateway.metric("gateway_reconnects_total", reason="keepalive_timeout") >= 1


async def test_a_link_that_is_lost_before_a_waiting_client_runs() -> None:
    """The server accepts the login and closes the connection, both in one turn of the loop."""
    gateway = Watched(GatewayConfig(host="127.0.0.1", user="root"))
    loop = asyncio.get_running_loop()
    opening = loop.create_task(
        gateway.open_channel(Endpoint("10.0.0.1", 6443), origin=ORIGIN, hold_until=loop.time() + 0.3)
    )
    await asyncio.sleep(0)
    gateway._waiting.up.set()
    gateway._waiting.up.clear()
    with pytest.raises(LinkDown, match="gateway edge has no link"):
        await opening
    await gateway.close()


@pytest.mark.parametrize("dial", ["always", "on_demand"])
async def test_clients_that_wait_move_to_the_gateway_that_replaces_theirs(sshd: Sshd, dial: str) -> None:
    """The server that the old gateway dials never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        patient = {"dial": dial, "connect_timeout": "1m"}
        old = Watched(config_for(sshd, port=silent.getsockname()[1], **patient))
        old.start()
        try:
            async with Echo() as server, started(config_for(sshd, **patient)) as new:
                waiting = [open_channel(old, server.endpoint) for _ in range(3)]
                async with asyncio.timeout(30):
                    while old._waiting.count < 3:
                        await asyncio.sleep(0)
                old.give_way(new)
                await old.drain(0)
                for channel in await asyncio.gather(*waiting):
                    channel.abort()
                assert old._waiting.count == 0
        finally:
            await old.close()
