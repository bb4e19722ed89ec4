"""From a client of our SSH server (`ssh -L`) to a forward of a site (`ssh -R`): two OpenSSH clients, and a
relay from channel to channel between their links. On both data planes.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from proxy.errors import LinkLost, ProxyError
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
    """Opens a channel to one site for each request of a client."""

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
    """Whether the port accepts a connection, which is closed at once."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@asynccontextmanager
async def bastion(
    folder: Path, server: Server, *arguments: str, **options: Any
) -> AsyncIterator[tuple[Bastion, Endpoint]]:
    """A bastion with a site in front of `server`. Yields the port of a client (`ssh -L`) to the site.

    `arguments` are those of both OpenSSH clients, `options` asyncssh's.
    """
    found = Bastion()
    async with server, Served(folder, found.asked, **options) as found.served:
        try:
            await found.served.ssh(*arguments, "-N", "-R", f"kube:6443:{server.endpoint}")
            found.site = await found.served.link()
            await found.served.forwards.get()
            port = free_port()
            await found.served.ssh(*arguments, "-N", "-L", f"127.0.0.1:{port}:kube:6443")
            await found.served.link()
            await until(lambda: is_listening(port))  # ssh listens a moment after its login
            await until(lambda: len(found.ended) == 1)
            found.ended.clear()
            yield found, Endpoint("127.0.0.1", port)
            await until(lambda: not found.relays)
        finally:
            await found.tasks.close()


async def test_bytes_go_both_ways_at_once_on_several_channels(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("who", ["client", "we"])
async def test_keys_are_exchanged_often_while_bytes_go_both_ways(
    tmp_path: Path, who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each side starts key exchanges, on the link of the client and on the link of the site."""
    begun: dict[object, int] = {}
    new_keys = asyncssh.SSHServerConnection.send_newkeys

    def counted(conn: asyncssh.SSHServerConnection, k: bytes, h: bytes) -> None:
        begun[conn] = begun.get(conn, 0) + 1
        new_keys(conn, k, h)

    monkeypatch.setattr(asyncssh.SSHServerConnection, "send_newkeys", counted)
    arguments = ["-o", "RekeyLimit=512K"] if who == "client" else []
    options = {"rekey_bytes": 512 << 10} if who == "we" else {}
    data = [pattern(2 * MiB, seed) for seed in range(3)]
    async with bastion(tmp_path, Echo(), *arguments, **options) as (_, port):
        assert await asyncio.gather(*(exchange(port, part) for part in data)) == data
    assert len(begun) == 2
    assert min(begun.values()) > 4


async def test_a_client_that_does_not_read_uses_windows_and_delays_no_other(tmp_path: Path) -> None:
    """The site does not send without end either: it sends only as much as it has credit for."""

    class Torrent(Server):
        """Sends without end. If a client sends a line, it echoes the line."""

        async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            line = await reader.readline()
            if line != b"torrent\n":
                writer.write(line)
                return
            while True:
                writer.write(bytes(64 << 10))
                await writer.drain()

    async with bastion(tmp_path, Torrent()) as (found, port):
        assert found.served is not None
        with socket.create_connection(port) as stalled:
            stalled.sendall(b"torrent\n")
            await until(lambda: any(relay.is_cluster_paused for relay in found.relays))
            (relay,) = found.relays
            seen = -1
            while seen != relay.from_cluster:  # OpenSSH's own buffers fill up
                seen = relay.from_cluster
                for _ in range(20):
                    assert await exchange(port, b"hello\n") == b"hello\n"
            await until(lambda: relay.is_cluster_paused)
            assert found.served.budget.used < 16 * MiB
        await until(lambda: not found.relays)


@pytest.mark.parametrize("side", ["client", "site"])
async def test_a_lost_connection_ends_its_channels(tmp_path: Path, side: str) -> None:
    async with bastion(tmp_path, Echo()) as (found, port):
        assert found.served is not None
        reader, writer = await asyncio.open_connection(*port)
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        site, client = found.served.links
        (client if side == "client" else site)._conn.abort()
        await until(lambda: not found.relays)
        expected = Reason.CLIENT_RESET if side == "client" else LinkLost.reason
        assert found.ended == [expected]
        async with asyncio.timeout(SECONDS):
            assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
