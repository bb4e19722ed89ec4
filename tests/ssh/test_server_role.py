"""Links whose peer is a client of our SSH server: an OpenSSH client that opens channels (-W, -L) or has
registered forwards (-R). On both data planes.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.errors import ChannelProhibited, ChannelRefused
from proxy.relay.interfaces import Channel, Pieces
from proxy.runtime.endpoint import Endpoint
from proxy.ssh.native.wire import messages
from proxy.ssh.open_requests import ONLY_FORWARDS
from tests.ssh.carried import SECONDS
from tests.ssh.conftest import ORIGIN
from tests.ssh.test_native_transfer import Collector
from tests.support.echo import Echo, Sink, pattern
from tests.support.ports import free_port
from tests.support.ssh_served import Served

pytestmark = pytest.mark.usefixtures("data_plane")

MiB = 1 << 20


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with Served(tmp_path) as served:
        yield served


def send(channel: Channel, data: bytes) -> None:
    """Send all bytes, in the way of a client's socket."""
    rest = memoryview(data)
    while rest:
        room = channel.get_buffer(len(rest))
        taken = min(len(room), len(rest))
        room[:taken] = rest[:taken]
        channel.buffer_updated(taken)
        rest = rest[taken:]


async def ended(user: Collector) -> None:
    """Wait until the peer has sent its end of file."""
    async with asyncio.timeout(SECONDS):
        await user.eof.wait()


# ------------------------------------------------------------------------------------------- our own channels


async def test_a_forward_that_openssh_has_registered_is_reached(served: Served, data_plane: str) -> None:
    async with Sink() as sink:
        await served.ssh("-N", "-R", f"kube:6443:{sink.endpoint}")
        link = await served.link()
        assert link.data_plane == data_plane
        assert await served.forwards.get() == ("kube", 6443)
        channel = await link.open_channel(Endpoint("kube", 6443), origin=ORIGIN, timeout=SECONDS)
        user = Collector()
        channel.attach(user)
        data = pattern(MiB)
        send(channel, data)
        channel.write_eof()
        await ended(user)
        assert bytes(user.data) == hashlib.sha256(data).hexdigest().encode()
        channel.close()
        async with asyncio.timeout(SECONDS):
            await link.idle.wait()


async def test_a_channel_to_an_unregistered_forward_is_refused(served: Served) -> None:
    await served.ssh("-N", "-R", f"kube:6443:127.0.0.1:{free_port()}")
    link = await served.link()
    await served.forwards.get()
    with pytest.raises(ChannelProhibited):
        await link.open_channel(Endpoint("kube", 6444), origin=ORIGIN, timeout=SECONDS)
    with pytest.raises(ChannelRefused):
        await link.open_channel(Endpoint("kube", 6443), origin=ORIGIN, timeout=SECONDS)
    assert link.load == 0


# --------------------------------------------------------------------------------------------- open requests


async def test_openssh_asks_for_a_channel_and_gets_it(served: Served) -> None:
    client = await served.ssh("-W", "node-a:22")
    link = await served.link()
    request = await served.request()
    assert request.target == ("node-a", 22)
    assert link.load == 1
    assert not link.idle.is_set()
    channel = request.accept()
    user = Collector()
    channel.attach(user)
    asking = asyncio.get_running_loop().create_task(client.communicate(b"hello"))
    await ended(user)
    assert bytes(user.data) == b"hello"
    send(channel, b"SSH-2.0-x\r\n")
    channel.write_eof()
    channel.close()
    async with asyncio.timeout(SECONDS):
        assert (await asking)[0] == b"SSH-2.0-x\r\n"
        await link.idle.wait()


async def test_the_user_of_openssh_reads_why_a_channel_was_refused(served: Served) -> None:
    client = await served.ssh("-W", "node-a:22")
    (await served.request()).refuse(messages.PROHIBITED, "kubemux: node-a: denied")
    async with asyncio.timeout(SECONDS):
        _, err = await client.communicate()
    assert "kubemux: node-a: denied" in err.decode()
    assert client.returncode == 255


async def test_shells_are_refused(served: Served) -> None:
    client = await served.ssh()
    async with asyncio.timeout(SECONDS):
        _, err = await client.communicate()
    assert ONLY_FORWARDS in err.decode()
    assert client.returncode == 255
    assert served.requests.empty()


async def test_a_request_may_be_answered_after_the_end_of_its_link(served: Served) -> None:
    client = await served.ssh("-W", "node-a:22")
    link, request = await served.link(), await served.request()
    client.kill()
    async with asyncio.timeout(SECONDS):
        await asyncio.shield(link.closed)
    with pytest.raises(ConnectionResetError):
        request.accept()
    request.refuse(messages.CONNECT_FAILED, "too late")
    assert link.load == 0


async def test_a_client_that_leaves_gives_the_reason(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is not that of a server that ends unused links."""
    monkeypatch.setattr("proxy.ssh.link.UNUSED_S", 0.0)
    client = await served.ssh("-N")
    link = await served.link()
    client.terminate()
    async with asyncio.timeout(SECONDS):
        error = await asyncio.shield(link.closed)
    assert "client 0" in str(error)
    assert not link.is_unused


# ------------------------------------------------------------------------------------------------------ both


async def test_both_sides_open_channels_on_one_connection(served: Served) -> None:
    """A site can also open channels: -L and -R are in one command."""
    async with Echo() as echo:
        local = free_port()
        await served.ssh("-N", "-R", f"kube:6443:{echo.endpoint}", "-L", f"127.0.0.1:{local}:other:80")
        link = await served.link()
        await served.forwards.get()
        ours = await link.open_channel(Endpoint("kube", 6443), origin=ORIGIN, timeout=SECONDS)
        reader, writer = await asyncio.open_connection("127.0.0.1", local)
        theirs = (await served.request()).accept()
        assert link.load == 2
        data = pattern(MiB)
        users = Collector(), Collector()
        ours.attach(users[0])
        theirs.attach(users[1])
        writer.write(data)
        writer.write_eof()
        send(ours, data)
        ours.write_eof()
        send(theirs, data)
        theirs.write_eof()
        async with asyncio.timeout(SECONDS):
            assert await reader.read() == data
        for user in users:
            await ended(user)
            assert bytes(user.data) == data
        writer.close()
        await writer.wait_closed()


# ---------------------------------------------------------------------------------------------------- detach


class Reader(Collector):
    """Reads one line, and passes the channel to another user with the bytes behind the line."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self.channel = channel
        self.line = b""
        self.left = asyncio.Event()

    def channel_data(self, pieces: Pieces, nbytes: int) -> None:
        super().channel_data(pieces, nbytes)
        line, found, rest = bytes(self.data).partition(b"\n")
        if found:
            self.line = line
            self.channel.detach(rest)
            self.left.set()


@pytest.mark.parametrize("is_late", [False, True], ids=["at once", "after the last byte"])
async def test_a_channel_is_passed_on_with_unread_bytes(served: Served, is_late: bool) -> None:
    """SOCKS5 needs this. The windows of both planes are smaller than the bytes behind the line."""
    data = pattern(2 * MiB)
    client = await served.ssh("-W", "node-a:22")
    channel = (await served.request()).accept()
    reader, user = Reader(channel), Collector()
    channel.attach(reader)
    asking = asyncio.get_running_loop().create_task(client.communicate(b"a line\n" + data))
    async with asyncio.timeout(SECONDS):
        await reader.left.wait()
    assert reader.line == b"a line"
    if is_late:  # and more has come while nobody reads
        for _ in range(50):
            await asyncio.sleep(0.001)
    channel.attach(user)
    await ended(user)
    assert bytes(user.data) == data
    channel.close()
    async with asyncio.timeout(SECONDS):
        await asking
