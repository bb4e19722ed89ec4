"""Bytes through a real sshd on the native data plane: all of them, in order, both ways."""

from __future__ import annotations

import asyncio
import socket
from unittest.mock import Mock

import pytest

from proxy.config.model import GatewayConfig
from proxy.relay.interfaces import Pieces
from proxy.runtime.endpoint import Endpoint
from tests.ssh.carried import Tunnel, closed, download, native, plane, tunnel, until, upload
from tests.ssh.conftest import ORIGIN, config_for
from tests.support import ssh_keys
from tests.support.echo import Echo, Sink, Source, exchange, pattern
from tests.support.faulty import Direction, FaultyRelay
from tests.support.serving import Server
from tests.support.sshd import Sshd

pytestmark = pytest.mark.sshd

MiB = 1 << 20


@pytest.fixture(autouse=True)
def _native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBEMUX_DATA_PLANE", "native")


@pytest.mark.both_loops
async def test_an_upload_arrives_and_half_close_brings_the_answer(sshd: Sshd) -> None:
    async with tunnel(sshd, Sink()) as (_, port):
        await upload(port, 16 * MiB)


@pytest.mark.both_loops
async def test_a_download_arrives_and_ends(sshd: Sshd) -> None:
    async with tunnel(sshd, Source()) as (_, port):
        await download(port, 16 * MiB)


async def test_every_read_is_acknowledged_at_once_even_a_large_one(
    sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sshd's kernel holds back the small segment at an answer's end until the large ones before it are
    acknowledged, which takes 40 ms if our kernel delays acknowledgements.
    """
    async with tunnel(sshd, Source()) as (gateway, port):
        ours, options, unanswered = plane(gateway), list[int](), list[list[int]]()
        sock = Mock(wraps=ours._socket, setsockopt=lambda _, option, __: options.append(option))
        monkeypatch.setattr(ours, "_socket", sock)
        on_turn = ours._outgoing._on_turn

        def turn(written: int) -> None:
            has_read = ours.received > ours._received_before
            options.clear()
            on_turn(written)
            if has_read and not written:
                unanswered.append(options.copy())

        monkeypatch.setattr(ours._outgoing, "_on_turn", turn)
        await download(port, 16 * MiB)
        assert unanswered
        assert all(options == [socket.TCP_QUICKACK] for options in unanswered)


async def test_bytes_go_both_ways_at_once_on_several_channels(sshd: Sshd) -> None:
    data = [pattern(2 * MiB, seed) for seed in range(6)]
    async with tunnel(sshd, Echo()) as (gateway, port):
        assert await asyncio.gather(*(exchange(port, part) for part in data)) == data
        await closed(gateway)


async def test_a_thousand_channels_reuse_few_numbers(sshd: Sshd) -> None:
    async with tunnel(sshd, Echo()) as (gateway, port):
        for _ in range(20):
            answers = await asyncio.gather(*(exchange(port, b"%d" % number) for number in range(50)))
            assert answers == [b"%d" % number for number in range(50)]
        await closed(gateway)
        assert not plane(gateway)._numbers.channels
        assert len(plane(gateway)._numbers.free) <= 100


class Speaks(Server):
    """Sends first, and a lot, before the channel has a user."""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(pattern(MiB))
        await writer.drain()
        writer.write_eof()
        await reader.read()


async def test_bytes_before_the_user_wait_in_the_window(sshd: Sshd) -> None:
    async with Speaks() as server, native(config_for(sshd)) as gateway:
        loop = asyncio.get_running_loop()
        channel = await gateway.open_channel(server.endpoint, origin=ORIGIN, hold_until=loop.time() + 30)
        user = Collector()
        window = next(iter(plane(gateway)._live))._window
        await until(lambda: not window.credit)
        channel.attach(user)
        async with asyncio.timeout(30):
            await user.eof.wait()
        assert bytes(user.data) == pattern(MiB)
        channel.write_eof()
        await user.lost.wait()


class Collector:
    """A channel's user that accepts everything."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.eof, self.lost = asyncio.Event(), asyncio.Event()
        self.full: list[bool] = []
        self.error: object = None

    def channel_data(self, pieces: Pieces, nbytes: int) -> None:
        self.data += b"".join(pieces)
        assert len(self.data) >= nbytes

    def channel_eof(self) -> None:
        self.eof.set()

    def channel_full(self) -> None:
        self.full.append(True)

    def channel_writable(self) -> None:
        self.full.append(False)

    def channel_lost(self, error: object) -> None:
        self.error = error
        self.lost.set()


async def test_a_stalled_reader_keeps_its_window_and_delays_no_other(sshd: Sshd) -> None:
    async with (
        Source() as source,
        Echo() as echo,
        native(config_for(sshd)) as gateway,
        Tunnel(gateway, source.endpoint, gateway) as fat,
        Tunnel(gateway, echo.endpoint, gateway) as other,
    ):
        stalled = socket.create_connection(fat.endpoint)  # this client never reads
        with stalled:
            stalled.sendall(b"%d\n" % (64 * MiB))
            data = pattern(4 * MiB)
            assert await exchange(other.endpoint, data) == data
            await until(lambda: any(relay.is_cluster_paused for relay in fat.relays))
            window = next(iter(plane(gateway)._live))._window
            await until(lambda: not window.credit)  # its peer gets no more credit
            assert await exchange(other.endpoint, data) == data
            assert gateway.budget.used < gateway.budget.limit // 2


def through(relay: FaultyRelay, sshd: Sshd) -> GatewayConfig:
    """The configuration of gateway `sshd`, reached through `relay`."""
    known_hosts = sshd.folder / "known_hosts_of_the_relay"
    known_hosts.write_text(f"[127.0.0.1]:{relay.endpoint.port} {ssh_keys.public(sshd.host_key)}\n")
    return config_for(sshd, port=relay.endpoint.port, known_hosts=[str(known_hosts)])


async def test_a_window_grows_with_the_throughput_of_a_long_path(sshd: Sshd) -> None:
    async with FaultyRelay(Endpoint(sshd.host, sshd.port)) as relay, Source() as source:
        relay.delay = 0.02
        async with native(through(relay, sshd)) as gateway, Tunnel(gateway, source.endpoint, gateway) as port:
            await until(lambda: plane(gateway).round_trip > 0.03)
            reader, writer = await asyncio.open_connection(*port.endpoint)
            writer.write(b"%d\n" % (16 * MiB))
            first = await reader.readexactly(1)
            window = next(iter(plane(gateway)._live))._window
            assert first + await reader.read() == pattern(16 * MiB)
            assert window.size >= 8 * window._floor  # its first size
            writer.close()
            await writer.wait_closed()
            await closed(gateway)
            assert gateway.budget.used == 0


async def test_a_flipped_bit_ends_the_link_and_reaches_no_client(sshd: Sshd) -> None:
    async with (
        FaultyRelay(Endpoint(sshd.host, sshd.port)) as relay,
        Echo() as echo,
        native(through(relay, sshd)) as gateway,
        Tunnel(gateway, echo.endpoint, gateway) as port,
    ):
        reader, writer = await asyncio.open_connection(*port.endpoint)
        writer.write(b"whole")
        assert await reader.readexactly(5) == b"whole"
        relay.corrupt(Direction.TO_CLIENT)
        writer.write(bytes(1000))
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.transport.abort()
        assert port.ended == ["protocol_error"]
        await gateway.until(lambda: gateway.metric("gateway_reconnects_total", reason="protocol_error") == 1)


async def test_a_gateway_that_dies_resets_its_clients(sshd: Sshd) -> None:
    async with (
        Echo() as echo,
        native(config_for(sshd)) as gateway,
        Tunnel(gateway, echo.endpoint, gateway) as port,
    ):
        reader, writer = await asyncio.open_connection(*port.endpoint)
        writer.write(b"x")
        assert await reader.read(1) == b"x"
        sshd.stop()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        await gateway.until(lambda: gateway.links == 0)
        writer.transport.abort()
        assert port.ended == ["link_lost"]
