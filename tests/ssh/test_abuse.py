"""A peer that abuses numbers, windows and packet sizes, or sends noise, harms its own link at most.

On both planes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from asyncssh.constants import DISC_MAC_ERROR, DISC_PROTOCOL_ERROR, MSG_DISCONNECT
from asyncssh.packet import String

from proxy.errors import LinkError
from proxy.runtime.endpoint import Endpoint
from proxy.ssh import metered
from proxy.ssh.native import numbers
from proxy.ssh.native.wire import messages
from tests.ssh.carried import SECONDS, closed
from tests.ssh.conftest import ORIGIN, Watched, config_for, started
from tests.ssh.scripted_peer import Script, asyncssh_server
from tests.ssh.test_late import opened
from tests.ssh.test_native_transfer import Collector
from tests.support.sshd import Sshd

TARGET = Endpoint("10.0.0.1", 6443)
REMEMBERED = 4
CHANNELS = 60
NOISE = {
    "an impossible length": b"\xff\xff\xff\xf0",
    "zeros": bytes(4096),
    "a forged packet": (32).to_bytes(4) + bytes(48),
}


@pytest.fixture
async def script() -> Script:
    return Script()


@pytest.fixture
async def gateway(
    tmp_path: Path, script: Script, data_plane: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Watched]:
    del data_plane
    for module in (metered, numbers):
        monkeypatch.setattr(module, "REMEMBERED", REMEMBERED)
    async with asyncssh_server(tmp_path, script) as config, started(config) as gateway:
        await gateway.until(lambda: gateway.links == 1)
        yield gateway


async def lost(gateway: Watched) -> LinkError:
    """Why the gateway's link has ended."""
    async with asyncio.timeout(SECONDS):
        return await asyncio.shield(gateway._links[0].closed)


@pytest.mark.parametrize("who", ["we close first", "the peer closes first"])
async def test_channel_numbers_are_reused_and_late_messages_are_dropped(
    gateway: Watched, script: Script, data_plane: str, who: str
) -> None:
    """More channels are closed than the plane remembers; after each, credit and data arrive for
    that channel.
    """
    numbers = []
    for count in range(CHANNELS):
        channel, number = await opened(gateway, script)
        numbers.append(number)
        user = Collector()
        channel.attach(user)
        mine = b"for channel %d" % count
        script.send(messages.DATA, number, then=String(mine))
        script.send(messages.EOF, number)
        async with asyncio.timeout(SECONDS):
            await user.eof.wait()
        assert user.data == mine
        if who == "we close first":
            channel.close()
            await script.receive(messages.CLOSE)
        script.send(messages.CLOSE, number)
        script.send(messages.WINDOW_ADJUST, number, 1 << 20)
        script.send(messages.DATA, number, then=String(b"late"))
        async with asyncio.timeout(SECONDS):
            await user.lost.wait()
        assert user.data == mine
        assert user.error is None
        channel.close()
    await closed(gateway)
    assert (len(set(numbers)) < CHANNELS) == (data_plane == "native"), "asyncssh counts up to 2^32"
    assert gateway.metric("gateway_connects_total", result="ok") == 1


async def test_credit_without_end_harms_at_most_its_own_link(
    gateway: Watched, script: Script, data_plane: str
) -> None:
    """The window grows past 2^32 - 1 bytes, which RFC 4254 5.2 forbids; asyncssh does not check that."""
    channel, number = await opened(gateway, script)
    channel.attach(Collector())
    for _ in range(3):
        script.send(messages.WINDOW_ADJUST, number, 0xFFFFFFFF)
    if data_plane == "native":
        assert "a window of more than" in str(await lost(gateway))
        return
    script.send(messages.CLOSE, number)
    await script.receive(messages.CLOSE)
    await closed(gateway)
    assert gateway.links == 1


async def test_data_past_the_window_ends_the_link(gateway: Watched, script: Script, data_plane: str) -> None:
    channel, number = await opened(gateway, script)
    user = Collector()
    channel.attach(user)
    channel.pause_reading()
    for _ in range(10):
        script.send(messages.DATA, number, then=String(bytes(32_000)))
    error = await lost(gateway)
    assert ("whose window has" if data_plane == "native" else "Window exceeded") in str(error)
    assert error.reason == "protocol_error"


@pytest.mark.parametrize("noise", NOISE)
async def test_noise(gateway: Watched, script: Script, noise: str) -> None:
    channel, _ = await opened(gateway, script)
    user = Collector()
    channel.attach(user)
    script.raw(NOISE[noise])
    assert (await lost(gateway)).reason == "protocol_error"
    async with asyncio.timeout(SECONDS):
        await user.lost.wait()
    assert getattr(user.error, "reason", None) == "protocol_error"
    assert not user.data
    await gateway.until(lambda: gateway.metric("gateway_reconnects_total", reason="protocol_error") == 1)


@pytest.mark.parametrize("code", [DISC_PROTOCOL_ERROR, DISC_MAC_ERROR])
async def test_a_disconnect_for_a_protocol_error(gateway: Watched, script: Script, code: int) -> None:
    """The peer says that kubemux broke the protocol. OpenSSH says so for nearly every reason."""
    script.send(MSG_DISCONNECT, code, then=String("go away") + String(""))
    error = await lost(gateway)
    assert error.reason == "link_lost"
    assert "go away" in str(error)


@pytest.mark.parametrize("largest", [0, 1, metered.SMALLEST_PACKET - 1])
async def test_a_peer_that_accepts_only_small_packets_harms_at_most_its_own_link(
    gateway: Watched, script: Script, data_plane: str, largest: int
) -> None:
    """asyncssh would make 65,536 packets of a client's 64 KiB at once. We read only as much as eight packets
    carry.
    """
    loop = asyncio.get_running_loop()
    opening = loop.create_task(gateway.open_channel(TARGET, origin=ORIGIN, hold_until=loop.time() + SECONDS))
    link = gateway._links[0]
    number = await script.open_request()
    script.send(messages.OPEN_CONFIRMATION, number, 7, 1 << 20, largest)
    if data_plane == "native" and largest:
        channel = await opening
        assert len(channel.get_buffer(-1)) == 8 * largest
        channel.abort()
        script.send(messages.CLOSE, number)
        return
    async with asyncio.timeout(SECONDS):
        error = await asyncio.shield(link.closed)
    assert f"packets of {largest} bytes" in str(error)
    opening.cancel()
    await asyncio.wait([opening])


@pytest.mark.sshd
async def test_a_jump_host_that_accepts_only_small_packets_is_given_up(
    tmp_path: Path, sshd: Sshd, script: Script, data_plane: str
) -> None:
    """asyncssh carries the inner connection on both planes."""
    del data_plane
    async with (
        asyncssh_server(tmp_path, script) as jump,
        started(config_for(sshd, jump=["jump"]), {"jump": jump}) as gateway,
    ):
        number = await script.open_request()
        script.send(messages.OPEN_CONFIRMATION, number, 7, 1 << 20, 1)
        await gateway.until(lambda: bool(gateway.snapshot().reason))
        assert "from the jump host before it: SSH connection closed" in gateway.snapshot().message
