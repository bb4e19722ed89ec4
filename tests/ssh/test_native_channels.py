"""Channels in unusual situations: tens of thousands of them, resets, early data, no credit, too big packets;
with a scripted peer and with sshd.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from pathlib import Path
from typing import Any, Final

import pytest
from asyncssh.packet import SSHPacket, String, UInt32

from bench.parts.peer import Peer
from proxy.ssh.native.incoming import LARGEST_DATA
from proxy.ssh.native.wire import messages
from proxy.ssh.planes import DATA_PLANE
from tests.ssh.carried import SECONDS, Tunnel, closed, native, plane, until
from tests.ssh.conftest import ORIGIN, config_for
from tests.ssh.scripted_peer import Script, asyncssh_server
from tests.ssh.test_native_peer import TARGET, opened
from tests.ssh.test_native_transfer import Collector
from tests.support.echo import Echo, Source, pattern
from tests.support.serving import Server, reset
from tests.support.sshd import Sshd

MiB = 1 << 20
MANY: Final = 1 << 16
"""More than a 16-bit number holds."""
MANY_ON_SSHD: Final = int(os.environ.get("KUBEMUX_TEST_CHANNELS", "3000"))
"""65536 for a long run, which takes 15 s."""
AT_ONCE: Final = 64


@pytest.fixture(autouse=True)
def _native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_PLANE, "native")


# ------------------------------------------------------------------------------------------------------ many


async def test_65536_channels_come_and_go_on_one_link() -> None:
    peer = Peer()
    left = iter(range(MANY))

    async def come_and_go() -> None:
        for _ in left:
            channel, user = await peer.open_channel(TARGET, origin=ORIGIN, hold_until=0), Collector()
            channel.attach(user)
            channel.write_eof()
            await user.lost.wait()
            assert user.eof.is_set()

    async with asyncio.timeout(280), asyncio.TaskGroup() as group:
        for number in range(AT_ONCE):
            group.create_task(come_and_go(), name=f"client {number}")
    native: Any = peer.link._plane
    assert not native._numbers.channels
    assert len(native._numbers.free) <= AT_ONCE, "numbers are used again"
    assert peer.link.load == 0
    assert peer.budget.used == 0


@pytest.mark.sshd
async def test_thousands_of_channels_come_and_go_on_one_sshd(sshd: Sshd) -> None:
    async with Echo() as echo, native(config_for(sshd)) as gateway:
        left = iter(range(MANY_ON_SSHD))
        loop = asyncio.get_running_loop()

        async def come_and_go() -> None:
            for number in left:
                channel = await gateway.open_channel(
                    echo.endpoint, origin=ORIGIN, hold_until=loop.time() + SECONDS
                )
                user, said = Collector(), b"%d" % number
                channel.attach(user)
                channel.get_buffer(-1)[: len(said)] = said
                channel.buffer_updated(len(said))
                channel.write_eof()
                await user.lost.wait()
                assert user.data == said

        async with asyncio.timeout(280), asyncio.TaskGroup() as group:
            for number in range(AT_ONCE):
                group.create_task(come_and_go(), name=f"client {number}")
        await closed(gateway)
        assert echo.accepted == MANY_ON_SSHD
        assert not plane(gateway)._numbers.channels
        assert len(plane(gateway)._numbers.free) <= AT_ONCE


# ----------------------------------------------------------------------------------------------------- resets


async def test_a_client_reset_closes_its_channel_and_drops_later_bytes(
    tmp_path: Path,
) -> None:
    script = Script()
    async with (
        asyncssh_server(tmp_path, script) as config,
        native(config) as gateway,
        Tunnel(gateway, TARGET, gateway) as port,
    ):
        client = socket.create_connection(port.endpoint)
        number = await script.open()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        assert await script.receive(messages.CLOSE) == messages.close(7)
        for _ in range(3):
            script.send(messages.DATA, number, then=String(bytes(1000)))
        script.send(messages.EOF, number)
        script.send(messages.CLOSE, number)
        await closed(gateway)
        assert port.ended == ["client_reset"]
        assert gateway.links == 1


@pytest.mark.sshd
async def test_a_client_that_resets_a_download_does_not_affect_others(sshd: Sshd) -> None:
    async with (
        Source() as source,
        native(config_for(sshd)) as gateway,
        Tunnel(gateway, source.endpoint, gateway) as port,
    ):
        for _ in range(5):
            reader, writer = await asyncio.open_connection(*port.endpoint)
            writer.write(b"%d\n" % (64 * MiB))
            await reader.readexactly(100_000)
            reset(writer)
        await until(lambda: port.ended == ["client_reset"] * 5)
        await closed(gateway)
        assert gateway.budget.used == 0


class Resets(Server):
    """Sends something, and resets the connection."""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(4))
        await writer.drain()
        await reader.readexactly(4)
        reset(writer)


@pytest.mark.sshd
async def test_an_api_server_that_resets_ends_its_own_channel_alone(sshd: Sshd) -> None:
    async with (
        Resets() as server,
        native(config_for(sshd)) as gateway,
        Tunnel(gateway, server.endpoint, gateway) as port,
    ):
        reader, writer = await asyncio.open_connection(*port.endpoint)
        writer.write(b"ping")
        assert await reader.readexactly(4) == b"ping"
        writer.write(b"die!")
        assert await reader.read() == b"", "sshd passes the reset on as an EOF"
        writer.close()
        await writer.wait_closed()
        await closed(gateway)
        assert gateway.links == 1


# -------------------------------------------------------------------------------------------- early, and ends


async def test_data_eof_and_close_may_arrive_with_the_confirmation(tmp_path: Path) -> None:
    """A server sends first, and ends: the confirmation, data, EOF and CLOSE arrive in one read, before the
    channel has a user.
    """
    script = Script()
    async with asyncssh_server(tmp_path, script) as config, native(config) as gateway:
        loop = asyncio.get_running_loop()
        opening = loop.create_task(
            gateway.open_channel(TARGET, origin=ORIGIN, hold_until=loop.time() + SECONDS), name="open"
        )
        packet = SSHPacket(await script.receive(messages.OPEN))
        packet.get_byte()
        packet.get_string()
        number = packet.get_uint32()
        script.send(messages.OPEN_CONFIRMATION, number, 7, MiB, 32768)
        script.send(messages.DATA, number, then=String(b"SSH-2.0-"))
        script.send(messages.DATA, number, then=String(b"early"))
        script.send(messages.EOF, number)
        script.send(messages.CLOSE, number)
        channel, user = await opening, Collector()
        assert await script.receive(messages.CLOSE) == messages.close(7)
        channel.attach(user)
        async with asyncio.timeout(SECONDS):
            await user.lost.wait()
        assert user.data == b"SSH-2.0-early"
        assert user.eof.is_set()
        assert user.error is None


class Sleepy(Server):
    """Reads nothing until the test wakes it, and then counts bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.wake = asyncio.Event()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await self.wake.wait()
        reader._transport.resume_reading()  # type: ignore[attr-defined]
        writer.write(b"%d" % len(await reader.read()))


@pytest.mark.sshd
async def test_sshd_gives_no_credit_while_its_api_server_does_not_read(sshd: Sshd) -> None:
    size = 16 * MiB  # sshd's window of 2 MiB, and the buffers of two kernels
    async with (
        Sleepy() as server,
        native(config_for(sshd)) as gateway,
        Tunnel(gateway, server.endpoint, gateway) as port,
    ):
        reader, writer = await asyncio.open_connection(*port.endpoint)
        writer.write(pattern(size))
        writer.write_eof()
        await until(lambda: any(relay.is_client_paused for relay in port.relays))
        (channel,) = plane(gateway)._live
        await until(lambda: not channel._sending._credit)
        server.wake.set()
        async with asyncio.timeout(30):
            assert await reader.read() == b"%d" % size
        writer.close()
        await writer.wait_closed()
        await closed(gateway)


# ---------------------------------------------------------------------------------------------------- too big


async def test_a_packet_bigger_than_we_accept_ends_the_link_before_it_has_arrived(tmp_path: Path) -> None:
    script = Script()
    async with asyncssh_server(tmp_path, script) as config, native(config) as gateway:
        channel, number = await opened(gateway, script)
        user = Collector()
        channel.attach(user)
        script.raw(UInt32(LARGEST_DATA + 16 * MiB) + bytes(16))
        async with asyncio.timeout(SECONDS):
            error = await asyncio.shield(gateway._links[0].closed)
        assert error.reason == "protocol_error"
        assert user.error is error
        del number


async def test_the_biggest_packet_that_we_accept_arrives_whole(tmp_path: Path) -> None:
    script = Script()
    async with asyncssh_server(tmp_path, script) as config, native(config) as gateway:
        channel, number = await opened(gateway, script)
        user = Collector()
        channel.attach(user)
        data = pattern(LARGEST_DATA)
        script.send(messages.DATA, number, then=String(data))
        script.send(messages.EOF, number)
        async with asyncio.timeout(SECONDS):
            await user.eof.wait()
        assert user.data == data
        channel.abort()
        script.send(messages.CLOSE, number)
        await closed(gateway)
