"""The link of a new channel, against a real sshd: clusters are spread over links, and a link that does not
answer gets no new channels.
"""

from __future__ import annotations

import asyncio
import select
import socket
from contextlib import AsyncExitStack

import pytest

from proxy.relay.interfaces import Channel
from proxy.relay.probing import relayed_socket
from proxy.runtime.endpoint import Endpoint
from proxy.ssh import keepalive
from proxy.ssh.pace import BULK
from tests.ssh.carried import until
from tests.ssh.conftest import ORIGIN, Watched, config_for, started
from tests.support.echo import Echo
from tests.support.sshd import Sshd

pytestmark = [pytest.mark.sshd, pytest.mark.usefixtures("data_plane")]


async def opened(gateway: Watched, target: Endpoint) -> Channel:
    return await gateway.open_channel(
        target, origin=ORIGIN, hold_until=asyncio.get_running_loop().time() + 30
    )


async def test_clusters_are_spread_over_links_although_all_used_the_first_one(sshd: Sshd) -> None:
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(Echo()) for _ in range(4)]
        gateway = await stack.enter_async_context(started(config_for(sshd)))
        for server in servers:
            (await opened(gateway, server.endpoint)).abort()
        gateway.adjust(gateway.config.model_copy(update={"connections": 2}), {})
        await gateway.until(lambda: gateway.links == 2)
        await asyncio.gather(*(link.idle.wait() for link in gateway._links))
        for server in servers:
            await opened(gateway, server.endpoint)
        assert [link.load for link in gateway._links] == [2, 2]


async def test_the_next_channel_avoids_a_link_that_does_not_answer(
    sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keepalives notice much later, and until then all new channels of a cluster would go to that link."""
    monkeypatch.setattr(keepalive, "_AT_FIRST", 1)  # sshd's answer to another one would end the silence
    config = config_for(sshd, connections=2, keepalive={"interval": "1h"})
    async with Echo() as server, started(config) as gateway:
        await gateway.until(lambda: gateway.links == 2)
        await until(lambda: all(link.rtt is not None for link in gateway._links))
        (await opened(gateway, server.endpoint)).abort()
        home = gateway._links.choose(server.endpoint)
        (other,) = {*gateway._links} - {home}
        await home.idle.wait()
        with (
            socket.create_server(("127.0.0.1", 0), backlog=0) as full,
            socket.socket() as one,
            socket.socket() as two,
        ):
            for client in (one, two):
                client.setblocking(False)
                client.connect_ex(full.getsockname())
            await until(lambda: bool(select.select([full], [], [], 0)[0]))
            silent = Endpoint(*full.getsockname())
            gateway._links._preferred[silent] = home
            waiting = asyncio.get_running_loop().create_task(opened(gateway, silent), name="waits")
            while not home.load:
                await asyncio.sleep(0)
            gateway.sample()
            assert gateway._links.choose(server.endpoint) is home, "sshd may still answer"
            gateway.sample()
            assert gateway._links.choose(server.endpoint) is other
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            gateway.sample()
            assert home.weight, "sshd has answered nothing since"
            (await home.open_channel(server.endpoint, origin=ORIGIN, timeout=30)).abort()
            assert not home.weight


async def test_many_requests_in_one_turn_do_not_count_as_bulk(sshd: Sshd) -> None:
    loop, request = asyncio.get_running_loop(), bytes(BULK - 1)
    async with Echo() as server, AsyncExitStack() as stack, started(config_for(sshd)) as gateway:
        await gateway.until(lambda: gateway.links == 1)
        clients = [
            stack.enter_context(await relayed_socket(await opened(gateway, server.endpoint), gateway.budget))
            for _ in range(8)
        ]
        (link,) = gateway._links
        for client in clients:  # all in one turn of the loop
            assert client.send(request) == len(request)
        for client in clients:
            left = len(request)
            while left:
                left -= len(await loop.sock_recv(client, left))
        gateway.sample()
        assert (link._plane.bulk, link.weight) == (0, 0)
