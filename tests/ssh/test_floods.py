"""A gateway that floods: one turn of the loop handles a bounded number of messages, and the memory for it is
bounded.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import asyncssh
import pytest
from asyncssh.packet import Byte, String, UInt32

from proxy.config.model import GatewayConfig
from proxy.config.reading import read
from proxy.runtime.endpoint import Endpoint
from proxy.ssh import internals, metered
from proxy.ssh.link import Link
from proxy.ssh.native import incoming, native_plane, outgoing
from proxy.ssh.native.native_plane import NativePlane
from proxy.ssh.native.wire import messages
from tests.ssh.carried import SECONDS, until
from tests.ssh.conftest import ORIGIN, Watched, failure, started
from tests.support.hostile import CHANNEL_FLOODS, FLOODS, LOGIN_FLOODS, Flooding
from tests.support.other_servers import Connections, asyncssh_server
from tests.support.ssh_keys import new_key, public

COUNT = 5_000
TARGET = Endpoint("10.0.0.1", 6443)


class Turns:
    """Counts handled messages: the most in one turn of the loop, and all."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.most = self.all = 0
        self._now = 0
        self._ticking: asyncio.Handle | None = None
        for of, name in ((asyncssh.SSHClientConnection, "_finish_recv_packet"), (NativePlane, "_message")):
            monkeypatch.setattr(of, name, self._counted(getattr(of, name)))

    def _counted(self, original: Any) -> Any:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self._now += 1
            self.all += 1
            self.most = max(self.most, self._now)
            if self._ticking is None:
                self._ticking = asyncio.get_running_loop().call_soon(self._turn)
            return original(*args, **kwargs)

        return counted

    def _turn(self) -> None:
        self._now, self._ticking = 0, None


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> Turns:
    return Turns(monkeypatch)


@asynccontextmanager
async def flooded(folder: Path, flood: str) -> AsyncIterator[tuple[Watched, list[Flooding]]]:
    """A gateway with a link to a flooding server. Yields it and the server's side."""
    servers: list[Flooding] = []

    def session(conns: Connections) -> Flooding:
        servers.append(Flooding(conns, flood, COUNT))
        return servers[-1]

    async with asyncssh_server(folder, session) as config, started(config) as gateway:
        await gateway.until(lambda: gateway.links == 1)
        yield gateway, servers


# ------------------------------------------------------------------------------------------------------ turns


@pytest.mark.parametrize("flood", FLOODS)
async def test_a_turn_handles_a_bounded_number_of_messages(
    tmp_path: Path, turns: Turns, data_plane: str, flood: str
) -> None:
    async with flooded(tmp_path, flood):
        await until(lambda: turns.all > COUNT)
    # In the turn of the takeover, asyncssh and the native plane both handle some.
    most = metered.TURN + incoming.TURN // incoming.ASYNCSSH_COST if data_plane == "native" else metered.TURN
    assert turns.most <= most


@pytest.mark.parametrize("flood", CHANNEL_FLOODS)
async def test_a_turn_handles_a_bounded_number_of_a_channels_messages(
    tmp_path: Path, turns: Turns, data_plane: str, flood: str
) -> None:
    async with flooded(tmp_path, flood) as (gateway, _):
        loop = asyncio.get_running_loop()
        channel = await gateway.open_channel(TARGET, origin=ORIGIN, hold_until=loop.time() + SECONDS)
        await until(lambda: turns.all > COUNT)
        channel.abort()
    assert turns.most <= (incoming.TURN if data_plane == "native" else metered.TURN)


@pytest.mark.parametrize("flood", LOGIN_FLOODS)
async def test_a_turn_handles_a_bounded_number_of_messages_before_the_login(
    tmp_path: Path, turns: Turns, flood: str
) -> None:
    def session(conns: Connections) -> Flooding:
        return Flooding(conns, flood, COUNT, before_login=True)

    async with asyncssh_server(tmp_path, session) as config:
        short = config.model_copy(update={"connect_timeout": 1.5})
        async with asyncio.timeout(SECONDS):
            while turns.all <= COUNT / 10:  # a busy machine may give a dial no time for the flood
                assert (await failure(short)).reason == "connect_timeout"
    assert turns.most <= metered.TURN


async def test_a_list_of_algorithms_has_a_limit(tmp_path: Path, data_plane: str) -> None:
    """A list of 250,000 names would block the loop for too long."""
    async with flooded(tmp_path, "") as (gateway, (*_, server)):
        link = gateway._links[0]
        server.say(Byte(messages.KEXINIT) + bytes(16) + String(b"," * (40 << 10)) + String("") * 9 + bytes(5))
        async with asyncio.timeout(SECONDS):
            error = await asyncio.shield(link.closed)
        assert "a message of type 20 has" in str(error), data_plane


# ----------------------------------------------------------------------------------------------------- memory


async def test_we_stop_reading_from_a_peer_that_does_not_read_our_answers(
    tmp_path: Path, data_plane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the peer reads again, it gets every answer."""
    most = 64 << 10
    for module in (metered, native_plane):
        monkeypatch.setattr(module, "MOST_UNREAD", most)
    async with flooded(tmp_path, "") as (gateway, (*_, server)):
        conn: Any = gateway._links[0]._conn
        ours, theirs = conn.get_extra_info("socket"), server.conn.get_extra_info("socket")
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        server.conn._transport.pause_reading()
        answers = server.answers
        server.flood(FLOODS["global requests"])
        transport = conn._transport
        # Not everything: the kernel may accept some more after the last answer.
        await until(lambda: transport.get_write_buffer_size() > most // 2)
        for _ in range(300):
            await asyncio.sleep(0)
            assert transport.get_write_buffer_size() < most + 4096, "at most the answers of one turn wait"
        # With a receive window of one segment, each answer would wait for TCP's timer that probes a closed
        # window.
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        server.conn._transport.resume_reading()
        await until(lambda: server.answers >= answers + COUNT)
        assert gateway.links == 1, data_plane


async def unending(gateway: Watched, server: Flooding) -> Link:
    """The server starts a key exchange, and never ends it."""
    link = gateway._links[0]
    server.conn._send_kexinit()
    await until(lambda: internals.is_exchanging_keys(link._conn))
    return link


async def test_answers_that_wait_for_keys_have_a_bound(
    tmp_path: Path, data_plane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metered, "MOST_ANSWERS", 1000)
    async with flooded(tmp_path, "") as (gateway, (*_, server)):
        link = await unending(gateway, server)
        server.flood(FLOODS["keepalives"])
        async with asyncio.timeout(SECONDS):
            error = await asyncio.shield(link.closed)
        assert (error.reason, link.data_plane) == ("protocol_error", data_plane)
        assert "without end" in str(error)
        assert len(cast("Any", link._conn)._deferred_packets) <= 1001  # and one keepalive of ours


async def test_answers_to_channel_requests_that_wait_for_keys_have_a_bound(
    tmp_path: Path, data_plane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metered, "MOST_ANSWERS", 1000)
    monkeypatch.setattr(outgoing, "MOST_DEFERRED", 1000)
    async with flooded(tmp_path, "") as (gateway, (*_, server)):
        loop = asyncio.get_running_loop()
        await gateway.open_channel(TARGET, origin=ORIGIN, hold_until=loop.time() + SECONDS)
        link = await unending(gateway, server)
        server.flood(CHANNEL_FLOODS["channel requests"](0))
        async with asyncio.timeout(SECONDS):
            error = await asyncio.shield(link.closed)
        assert (error.reason, link.data_plane) == ("protocol_error", data_plane)


async def test_data_that_arrives_while_a_packet_is_handled_stays_in_the_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two key exchanges begin, and then a whole socket buffer arrives. asyncssh would buffer 8 MiB of it in
    one turn, and copy all of that again at each read.
    """
    waiting = [0]
    receive = asyncssh.SSHClientConnection.data_received

    def received(conn: Any, data: bytes, datatype: None = None) -> None:
        receive(conn, data, datatype)
        waiting.append(len(conn._inpbuf))

    monkeypatch.setattr(asyncssh.SSHClientConnection, "data_received", received)
    lists = (
        b"curve25519-sha256",
        b"ssh-ed25519",
        *[b"aes128-ctr"] * 2,
        *[b"hmac-sha2-256"] * 2,
        *[b"none"] * 2,
        b"",
        b"",
    )
    begin = Byte(messages.KEXINIT) + bytes(16) + b"".join(map(String, lists)) + bytes(5)
    padding = 16 - (len(begin) + 5) % 8
    packet = UInt32(len(begin) + 1 + padding) + Byte(padding) + begin + bytes(padding)

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\n")
        writer.write(b"SSH-2.0-OpenSSH_9.9\r\n" + packet * 100_000)
        with suppress(ConnectionError):
            await writer.drain()
        writer.transport.abort()

    server = await asyncio.start_server(flood, "127.0.0.1", 0)
    async with server:
        key = new_key(tmp_path / "key")
        (tmp_path / "known_hosts").write_text(f"* {public(key)}\n")
        section = {
            "host": "127.0.0.1",
            "port": server.sockets[0].getsockname()[1],
            "user": "root",
            "connect_timeout": "10s",
        }
        files = {"identity_files": [str(key)], "known_hosts": [str(tmp_path / "known_hosts")]}
        error = await failure(read(GatewayConfig, section | files))
    assert "already in progress" in str(error)
    assert max(waiting) <= metered.MOST_UNOPENED + (256 << 10), "the bound plus one read"
