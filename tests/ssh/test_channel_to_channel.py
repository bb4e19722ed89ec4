"""From a client of our SSH server (`ssh -L`) to what a site has registered (`ssh -R`): two stock OpenSSH
clients, and a relay from channel to channel between their links. On both data planes.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from proxy.errors import ProxyError
from proxy.errors.reasons import Reason
from proxy.metrics import Traffic
from proxy.relay.channel_relay import ChannelRelay
from proxy.relay.interfaces import OpenRequest, Relay
from proxy.runtime.endpoint import Endpoint
from proxy.runtime.tasks import Tasks
from proxy.ssh.link import Link
from proxy.ssh.native.wire import messages
from tests.ssh.carried import SECONDS, download, until, upload
from tests.ssh.conftest import ORIGIN
from tests.support.echo import Echo, Sink, Source, exchange, pattern
from tests.support.ports import free_port
from tests.support.serving import Server
from tests.support.ssh_served import Served

pytestmark = pytest.mark.usefixtures("data_plane")

MiB = 1 << 20


class Bastion:
    """Leads the requests of every client to one site."""

    def __init__(self) -> None:
        self.site: Link | None = None
        self.relays: list[Relay] = []
        self.ended: list[Reason | None] = []
        self.tasks = Tasks("bastion")
        self.served: Served | None = None

    def asked(self, request: OpenRequest) -> None:
        self.tasks.spawn(self._serve(request), name=f"request for {request.target}")

    async def _serve(self, request: OpenRequest) -> None:
        assert self.site is not None
        assert self.served is not None
        try:
            channel = await self.site.open_channel(request.target, origin=ORIGIN, timeout=SECONDS)
        except ProxyError as exc:
            request.refuse(messages.CONNECT_FAILED, str(exc))
            return
        relay = ChannelRelay(channel, Traffic(), self.served.budget, self._relay_ended, request.accept)
        self.relays.append(relay)
        await relay.start()

    def _relay_ended(self, relay: Relay) -> None:
        self.relays.remove(relay)
        self.ended.append(relay.reason)


def is_listening(port: int) -> bool:
    """Whether somebody accepts a connection, which is closed at once."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@asynccontextmanager
async def bastion(folder: Path, server: Server) -> AsyncIterator[tuple[Bastion, Endpoint]]:
    """A bastion with a site that leads to `server`, and the port of a client that leads to the site."""
    found = Bastion()
    async with server, Served(folder, found.asked) as found.served:
        try:
            await found.served.ssh("-N", "-R", f"kube:6443:{server.endpoint}")
            found.site = await found.served.link()
            await found.served.forwards.get()
            port = free_port()
            await found.served.ssh("-N", "-L", f"127.0.0.1:{port}:kube:6443")
            await found.served.link()
            await until(lambda: is_listening(port))  # ssh listens a moment after its login
            await until(lambda: len(found.ended) == 1)
            found.ended.clear()
            yield found, Endpoint("127.0.0.1", port)
            await until(lambda: not found.relays)
        finally:
            await found.tasks.close()


async def test_both_ways_at_once_on_several_channels(tmp_path: Path) -> None:
    data = [pattern(2 * MiB, seed) for seed in range(4)]
    async with bastion(tmp_path, Echo()) as (found, port):
        assert await asyncio.gather(*(exchange(port, part) for part in data)) == data
        await until(lambda: len(found.ended) == 4)
        assert set(found.ended) == {Reason.CLIENT_CLOSED}


async def test_an_upload_arrives_and_half_close_brings_the_answer(tmp_path: Path) -> None:
    async with bastion(tmp_path, Sink()) as (_, port):
        await upload(port, 16 * MiB)


async def test_a_download_arrives_and_ends(tmp_path: Path) -> None:
    async with bastion(tmp_path, Source()) as (_, port):
        await download(port, 16 * MiB)
