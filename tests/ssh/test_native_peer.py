"""The native data plane against a scripted peer, which breaks the protocol or follows it in unusual ways."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from asyncssh.packet import SSHPacket, String, UInt32

from proxy.errors import ChannelRefused, ChannelTimeout, LinkDown, LinkError
from proxy.runtime.endpoint import Endpoint
from proxy.ssh.native import flow, handover, numbers
from proxy.ssh.native.sending import PACKETS
from proxy.ssh.native.wire import messages
from tests.ssh.carried import SECONDS, Tunnel, closed, native, plane, until
from tests.ssh.conftest import ORIGIN, Watched, config_for, started
from tests.ssh.scripted_peer import Script, asyncssh_server
from tests.ssh.test_native_transfer import Collector
from tests.support.echo import Echo, Sink, exchange, pattern
from tests.support.ports import free_port
from tests.support.sshd import Sshd, SshdFactory

MiB = 1 << 20
TARGET = Endpoint("10.0.0.1", 6443)


@pytest.fixture(autouse=True)
def _native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBEMUX_DATA_PLANE", "native")


@pytest.fixture
async def script() -> Script:
    return Script()


@pytest.fixture
async def gateway(tmp_path: Path, script: Script) -> AsyncIterator[Watched]:
    async with asyncssh_server(tmp_path, script) as config, native(config) as gateway:
        yield gateway


async def opened(gateway: Watched, script: Script, **more: int) -> tuple[Any, int]:
    """An open channel and its number."""
    loop = asyncio.get_running_loop()
    opening = loop.create_task(gateway.open_channel(TARGET, origin=ORIGIN, hold_until=loop.time() + SECONDS))
    number = await script.open(**more)
    return await opening, number


# -------------------------------------------------------------------------------------------- broken protocol


def data(number: int, content: bytes) -> tuple[int, bytes]:
    return messages.DATA, UInt32(number) + String(content)


BROKEN: dict[str, Callable[[int], list[tuple[int, bytes]]]] = {
    "a channel that does not exist": lambda _: [data(4711, b"x")],
    "data after its end": lambda number: [(messages.EOF, UInt32(number)), data(number, b"x")],
    "a length that is wrong": lambda number: [(messages.DATA, UInt32(number) + UInt32(5) + b"x")],
    "a message cut off": lambda _: [(messages.EOF, b"\0")],
    "opened twice": lambda number: [
        (messages.OPEN_CONFIRMATION, b"".join(map(UInt32, (number, 8, 100, 100))))
    ],
    "refused after it was opened": lambda number: [
        (messages.OPEN_FAILURE, UInt32(number) + UInt32(2) + String("") * 2)
    ],
    "a window past 4 GiB": lambda number: [(messages.WINDOW_ADJUST, UInt32(number) + UInt32(0xFFFFFFFF))],
    "standard error": lambda number: [(messages.EXTENDED_DATA, UInt32(number) + UInt32(1) + String("x"))],
    "an answer nobody asked for": lambda number: [(messages.FAILURE, UInt32(number))],
}


async def broken(gateway: Watched) -> LinkError:
    """The reason of the link's end, which the gateway reports before it dials again."""
    async with asyncio.timeout(SECONDS):
        error = await asyncio.shield(gateway._links[0].closed)
    await gateway.until(lambda: gateway.metric("gateway_reconnects_total", reason="protocol_error") == 1)
    return error


@pytest.mark.parametrize("breach", BROKEN)
async def test_a_broken_protocol_ends_the_link_for_that_reason(
    gateway: Watched, script: Script, breach: str
) -> None:
    channel, number = await opened(gateway, script)
    user = Collector()
    channel.attach(user)
    for kind, rest in BROKEN[breach](number):
        script.send(kind, then=rest)
    error = await broken(gateway)
    assert error.reason == "protocol_error"
    assert user.error is error
    assert not user.data


async def test_a_peer_that_sends_past_the_window_of_a_stalled_client_is_stopped(
    gateway: Watched, script: Script
) -> None:
    channel, number = await opened(gateway, script)
    user = Collector()
    channel.attach(user)
    channel.pause_reading()
    used = gateway.budget.used
    for _ in range(10):
        script.send(messages.DATA, number, then=String(bytes(32_000)))
    assert "whose window has" in str(await broken(gateway))
    assert gateway.budget.used < used


async def test_a_broken_link_does_not_affect_others(tmp_path: Path, sshd: Sshd, script: Script) -> None:
    async with (
        asyncssh_server(tmp_path, script) as config,
        native(config) as hostile,
        Echo() as echo,
        native(config_for(sshd)) as healthy,
        Tunnel(healthy, echo.endpoint, healthy) as port,
    ):
        script.raw(bytes(100))
        link = hostile._links[0]
        async with asyncio.timeout(SECONDS):
            await asyncio.shield(link.closed)
        assert await exchange(port.endpoint, b"alive") == b"alive"


# -------------------------------------------------------------------------------------------- opening, ending


async def test_a_refusal_has_the_peers_message(gateway: Watched, script: Script) -> None:
    loop = asyncio.get_running_loop()
    opening = loop.create_task(gateway.open_channel(TARGET, origin=ORIGIN, hold_until=loop.time() + SECONDS))
    packet = SSHPacket(await script.receive(messages.OPEN))
    packet.get_byte()
    assert packet.get_string() == b"direct-tcpip"
    script.send(
        messages.OPEN_FAILURE,
        packet.get_uint32(),
        2,
        then=String(b"Connection \x1b[31mrefused") + String(b""),
    )
    with pytest.raises(
        ChannelRefused, match=r"could not connect to 10.0.0.1:6443: Connection \?\[31mrefused"
    ):
        await opening
    await closed(gateway)


async def test_a_number_that_was_refused_never_was_a_channel(gateway: Watched, script: Script) -> None:
    loop = asyncio.get_running_loop()
    opening = loop.create_task(gateway.open_channel(TARGET, origin=ORIGIN, hold_until=loop.time() + SECONDS))
    number = await script.open_request()
    script.send(messages.OPEN_FAILURE, number, 2, then=String("no") + String(""))
    with pytest.raises(ChannelRefused):
        await opening
    script.send(messages.WINDOW_ADJUST, number, 1)
    assert (await broken(gateway)).reason == "protocol_error"


async def test_an_opening_cancelled_as_its_refusal_arrives_sends_nothing(
    gateway: Watched, script: Script
) -> None:
    """The client cancels in the turn in which the refusal arrives. There was a bug: we sent CLOSE for a
    channel without a number, as channel 0, which is another client's.
    """
    link = gateway._links[0]
    loop = asyncio.get_running_loop()
    opening = loop.create_task(link.open_channel(TARGET, origin=ORIGIN, timeout=SECONDS))
    packet = SSHPacket(await script.receive(messages.OPEN))
    packet.get_byte(), packet.get_string()
    (channel,) = plane(gateway)._live
    refused = channel.refused

    def and_given_up(said: tuple[int, str]) -> None:
        refused(said)
        opening.cancel()

    with patch.object(type(channel), "refused", lambda _, said: and_given_up(said)):
        script.send(messages.OPEN_FAILURE, packet.get_uint32(), 2, then=String("no") + String(""))
        with pytest.raises(asyncio.CancelledError):
            await opening
    await closed(gateway)
    again = loop.create_task(link.open_channel(TARGET, origin=ORIGIN, timeout=SECONDS))
    async with asyncio.timeout(SECONDS):
        assert (await script.heard.get())[0] == messages.OPEN, (
            "the next open is the first message after the refusal"
        )
    again.cancel()


async def test_an_opening_given_up_is_closed_when_the_answer_comes(gateway: Watched, script: Script) -> None:
    with pytest.raises(ChannelTimeout):
        await gateway._links[0].open_channel(TARGET, origin=ORIGIN, timeout=0.05)
    number = await script.open()
    assert await script.receive(messages.CLOSE) == messages.close(7)
    script.send(messages.CLOSE, number)
    await closed(gateway)


async def test_an_opening_fails_when_its_link_is_lost(gateway: Watched, script: Script) -> None:
    opening = asyncio.get_running_loop().create_task(
        gateway._links[0].open_channel(TARGET, origin=ORIGIN, timeout=SECONDS)
    )
    await script.receive(messages.OPEN)
    script.conn.abort()
    with pytest.raises(LinkDown):
        await opening


async def test_half_close_each_way_and_the_number_is_reused_later(
    gateway: Watched, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numbers, "REMEMBERED", 1)
    channel, number = await opened(gateway, script)
    user = Collector()
    channel.attach(user)
    channel.write_eof()
    assert await script.receive(messages.EOF) == messages.eof(7)
    script.send(messages.DATA, number, then=String(b"late"))
    script.send(messages.EOF, number)
    async with asyncio.timeout(SECONDS):
        await user.eof.wait()
    assert user.data == b"late"
    channel.close()
    await script.receive(messages.CLOSE)
    script.send(messages.CLOSE, number)
    async with asyncio.timeout(SECONDS):
        await user.lost.wait()
    assert user.error is None
    other, another = await opened(gateway, script)
    assert another != number
    other.close()
    script.send(messages.CLOSE, another)
    await closed(gateway)
    _, again = await opened(gateway, script)
    assert again == number


async def test_a_close_without_an_end_of_file_is_reported(gateway: Watched, script: Script) -> None:
    channel, number = await opened(gateway, script)
    user = Collector()
    channel.attach(user)
    script.send(messages.CLOSE, number)
    async with asyncio.timeout(SECONDS):
        await user.lost.wait()
    assert not user.eof.is_set()
    assert await script.receive(messages.CLOSE) == messages.close(7)


async def test_a_user_attached_to_an_ended_channel_gets_only_its_end(
    gateway: Watched, script: Script
) -> None:
    channel, number = await opened(gateway, script)
    script.send(messages.EOF, number)
    script.send(messages.CLOSE, number)
    await script.receive(messages.CLOSE)
    user = Collector()
    channel.attach(user)
    async with asyncio.timeout(SECONDS):
        await user.lost.wait()
    assert user.error is None
    assert user.eof.is_set()  # without EOF, a relay treats the end as a reset
    user.eof.clear()
    channel.resume_reading()
    assert not user.eof.is_set()


async def test_bytes_waiting_for_a_slow_user_arrive_after_the_close(gateway: Watched, script: Script) -> None:
    channel, number = await opened(gateway, script)
    user = Collector()
    channel.attach(user)
    channel.pause_reading()
    script.send(messages.DATA, number, then=String(b"the last words"))
    script.send(messages.EOF, number)
    script.send(messages.CLOSE, number)
    await script.receive(messages.CLOSE)
    assert not user.data
    channel.resume_reading()
    assert user.data == b"the last words"
    assert user.eof.is_set()
    assert user.lost.is_set()


# ----------------------------------------------------------------------------------------------- flow control


def send(channel: Any, data: bytes) -> int:
    """Send as a client's transport does. Returns how many bytes were accepted."""
    buffer = channel.get_buffer(-1)
    size = min(len(buffer), len(data))
    buffer[:size] = data[:size]
    channel.buffer_updated(size)
    return size


async def test_a_window_of_zero_holds_the_client_until_there_is_credit(
    gateway: Watched, script: Script
) -> None:
    channel, number = await opened(gateway, script, window=0)
    user = Collector()
    channel.attach(user)
    assert user.full == [True]
    assert send(channel, b"early") == 5
    channel.write_eof()
    assert script.heard.empty()
    script.send(messages.WINDOW_ADJUST, number, 3)
    assert (await script.receive(messages.DATA))[9:] == b"ear"
    script.send(messages.WINDOW_ADJUST, number, 100)
    assert (await script.receive(messages.DATA))[9:] == b"ly"
    await script.receive(messages.EOF)
    assert user.full == [True, False]


async def test_a_peer_that_waits_for_more_bytes_than_we_usually_send_ahead_gets_them(
    gateway: Watched, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peer grants one byte at first, and later half a window at a time, so its grants do not show how
    much it waits for.
    """
    bulk, number = await opened(gateway, script, window=MiB // 2)
    other, _ = await opened(gateway, script, number=8)
    user = Collector()
    bulk.attach(user)
    other.attach(Collector())
    monkeypatch.setattr(flow, "SHARED_RATE", 0.0)  # as if the round trip was short
    monkeypatch.setattr(flow, "PATIENCE_S", 3600.0)
    for channel in (other, bulk, other, bulk):
        send(channel, b"x")
        await script.receive(messages.DATA)
    script.send(messages.WINDOW_ADJUST, number, 1)
    await until(lambda: bool(bulk._sending._reserve))
    kept, sent, content = bulk._sending._reserve, 0, bytes(MiB // 2 - 2)
    while not (user.full and user.full[-1]):
        sent += send(bulk, content[sent:])
    assert sent == len(content) + 1 - kept
    monkeypatch.setattr(flow, "PATIENCE_S", 0.0)
    plane(gateway)._flow._use_reserves()  # as its timer does
    await until(lambda: not user.full[-1])
    while sent < len(content):
        sent += send(bulk, content[sent:])
    heard = 0
    while heard < len(content):
        heard += len(await script.receive(messages.DATA)) - 9


async def test_no_packet_is_bigger_than_the_peer_accepts(gateway: Watched, script: Script) -> None:
    channel, _ = await opened(gateway, script, window=250, largest=100)
    user = Collector()
    channel.attach(user)
    content, sent = pattern(250), 0
    while sent < len(content):
        sent += send(channel, content[sent:])
    assert user.full == [True]
    heard = [(await script.receive(messages.DATA))[9:] for _ in range(3)]
    assert [len(part) for part in heard] == [100, 100, 50]
    assert b"".join(heard) == content


async def test_the_number_of_small_packets_per_turn_is_limited(gateway: Watched, script: Script) -> None:
    """256 KiB in packets of one byte took 2 s of the loop's time, and 9 MB."""
    channel, _ = await opened(gateway, script, largest=1)
    channel.attach(Collector())
    assert send(channel, bytes(MiB)) == PACKETS
    assert [(await script.receive(messages.DATA))[9:] for _ in range(PACKETS)] == [b"\0"] * PACKETS


async def test_credit_follows_the_bytes_that_the_user_takes(gateway: Watched, script: Script) -> None:
    channel, number = await opened(gateway, script)
    window = plane(gateway)._numbers.channels[number]._window
    size, packet = window.size, bytes(32_000)
    user = Collector()
    channel.attach(user)
    channel.pause_reading()
    for _ in range(size // len(packet)):
        script.send(messages.DATA, number, then=String(packet))
    await until(lambda: window.credit == size % len(packet))
    assert script.heard.empty()
    channel.resume_reading()
    granted = SSHPacket((await script.receive(messages.WINDOW_ADJUST))[5:]).get_uint32()
    assert granted >= size - window.size // 8
    assert window.credit == window.size


async def test_a_request_on_a_channel_is_answered_with_no(gateway: Watched, script: Script) -> None:
    _, number = await opened(gateway, script)
    script.send(messages.REQUEST, number, then=String(b"keepalive@openssh.com") + b"\1")
    assert await script.receive(messages.FAILURE) == messages.failure(7)


# ----------------------------------------------------------------------------- through others, and not at all


async def transfers(gateway: Watched) -> None:
    """Transfer a megabyte and an answer on each of four channels; and get one refusal."""
    parts = [pattern(MiB, seed) for seed in range(4)]
    async with Sink() as sink, Tunnel(gateway, sink.endpoint, gateway) as port:
        answers = await asyncio.gather(*(exchange(port.endpoint, part) for part in parts))
        assert answers == [hashlib.sha256(part).hexdigest().encode() for part in parts]
        await closed(gateway)
    with pytest.raises(ChannelRefused):
        await gateway._links[0].open_channel(
            Endpoint("127.0.0.1", free_port()), origin=ORIGIN, timeout=SECONDS
        )


async def test_an_inner_link_through_a_jump_host_is_native_too(sshd: Sshd, sshd_factory: SshdFactory) -> None:
    inner = sshd_factory(config={"RekeyLimit": "1M"})
    async with started(config_for(inner, jump=["hq"]), {"hq": config_for(sshd)}) as gateway:
        await gateway.until(lambda: gateway.links == 1)
        assert gateway.snapshot().links[0].data_plane == "native"
        assert plane(gateway)._gathering._socket is None, "the inner link goes through the jump host"
        await transfers(gateway)


async def test_with_an_asyncssh_that_lacks_a_part_asyncssh_carries_the_link(
    sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "_PARTS", (*handover._PARTS, "_no_such_part"))
    async with started(config_for(sshd)) as gateway:
        await gateway.until(lambda: gateway.links == 1)
        assert gateway.snapshot().links[0].data_plane == "asyncssh"
        await transfers(gateway)
