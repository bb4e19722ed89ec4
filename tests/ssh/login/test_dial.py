"""Dials of peers that misbehave, and dials that are cancelled: each ends with a LinkError in time, and leaves
nothing open.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import threading
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.config.model import GatewayConfig
from proxy.config.reading import read
from proxy.errors import (
    ConnectTimeout,
    CredentialsUnusable,
    HandshakeFailed,
    LinkError,
    RetryClass,
    Stage,
    Unreachable,
    Unresolvable,
)
from proxy.relay.socket_relay import LINGER_ZERO
from proxy.runtime.blocking import Place
from proxy.runtime.names import Address
from proxy.ssh.handshakes import Handshakes
from proxy.ssh.login.dial import Places, dial
from proxy.ssh.login.tcp import Tcp
from tests.ssh.conftest import Impatient, config_for, dialled, failure
from tests.support import ssh_keys
from tests.support.deadlines import HOUR, Deadline
from tests.support.leaks import open_files
from tests.support.ports import free_port
from tests.support.serving import Server, reset
from tests.support.sshd import Sshd, SshdFactory

Play = Callable[[StreamReader, StreamWriter], Awaitable[None]]


class Peer(Server):
    """A server on the SSH port that runs `play` for each connection."""

    def __init__(self, play: Play) -> None:
        super().__init__()
        self._play = play

    async def handle(self, reader: StreamReader, writer: StreamWriter) -> None:
        await self._play(reader, writer)


@pytest.fixture
def config(tmp_path: Path) -> GatewayConfig:
    """A gateway with a usable key and an empty known_hosts; nothing listens on its port."""
    known_hosts = tmp_path / "known_hosts"
    known_hosts.touch()
    section = {
        "host": "127.0.0.1",
        "port": free_port(),
        "user": "somebody",
        "identity_files": [str(ssh_keys.new_key(tmp_path / "key"))],
        "known_hosts": [str(known_hosts)],
        "connect_timeout": "30s",
    }
    return read(GatewayConfig, section)


def at(config: GatewayConfig, **changes: object) -> GatewayConfig:
    return config.model_copy(update=changes)


def says(data: bytes, *, then: str = "wait") -> Play:
    async def play(reader: StreamReader, writer: StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        if then == "reset":
            reset(writer)
        elif then == "wait":
            while await reader.read(1 << 16):
                pass

    return play


BANNER = b"SSH-2.0-Peer\r\n"

HOSTILE: dict[str, Play] = {
    "hangs up": says(b"", then="close"),
    "hangs up after the banner": says(BANNER, then="close"),
    "resets": says(BANNER, then="reset"),
    "speaks HTTP": says(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10, then="close"),
    "an endless line": says(b"x" * 200_000),
    "an old protocol": says(b"SSH-1.5-Old\r\n"),
    "a packet too long": says(BANNER + b"\xff" * 100),
    "no packet": says(BANNER + bytes(100)),
    "over MaxStartups": says(b"Exceeded MaxStartups\r\n", then="close"),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_peer_that_is_no_ssh_server_is_named_in_the_error(name: str, config: GatewayConfig) -> None:
    async with Peer(HOSTILE[name]) as peer:
        found = await failure(at(config, port=peer.endpoint.port))
    assert type(found) is HandshakeFailed, found
    assert found.stage is Stage.SSH
    assert str(peer.endpoint) in str(found)
    assert found.hint


@pytest.mark.parametrize("said", [b"", BANNER], ids=["silence", "only a banner"])
async def test_a_silent_peer_is_named_in_the_error(
    said: bytes, config: GatewayConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadline, is_up = Deadline(monkeypatch, HOUR), asyncio.Event()

    async def play(reader: StreamReader, writer: StreamWriter) -> None:
        writer.write(said)
        await reader.readline()
        is_up.set()
        await reader.read()

    async def time_is_over() -> None:
        await is_up.wait()
        deadline.passes()

    async with Peer(play) as peer, asyncio.timeout(60):
        dialling = failure(at(config, port=peer.endpoint.port, connect_timeout=HOUR))
        found, _ = await asyncio.gather(dialling, time_is_over())
    assert type(found) is ConnectTimeout, found
    assert found.stage is Stage.SSH
    assert str(peer.endpoint) in str(found)
    assert found.hint


@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(packets=st.lists(st.binary(min_size=1, max_size=60), max_size=6))
def test_any_bytes_end_in_a_link_error(config: GatewayConfig, packets: list[bytes]) -> None:
    """Random payloads in valid packets: any exception of asyncssh's parsers must become a LinkError."""

    async def scenario() -> None:
        framed = b"".join((len(p) + 1 + 4).to_bytes(4) + b"\x04" + p + bytes(4) for p in packets)
        async with Peer(says(BANNER + framed, then="close")) as peer:
            assert isinstance(await failure(at(config, port=peer.endpoint.port)), LinkError)

    asyncio.run(scenario())


async def test_a_refused_tcp_connection_is_unreachable(config: GatewayConfig) -> None:
    found = await failure(config)
    assert isinstance(found, Unreachable)
    assert "Connection refused" in str(found)
    assert found.stage is Stage.TCP


@pytest.mark.parametrize("host", ["no.such.name.invalid", "x" * 70 + ".invalid", "a..b"])
async def test_a_name_that_does_not_resolve_is_named_in_the_error(config: GatewayConfig, host: str) -> None:
    found = await failure(at(config, host=host))
    assert isinstance(found, Unresolvable), found
    assert host in str(found)
    assert "getent hosts" in found.hint


async def test_a_full_backlog_is_a_timeout(config: GatewayConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel neither accepts nor refuses the connection, as behind a firewall that drops packets."""
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as full,
        socket.socket() as first,
        socket.socket() as second,
    ):
        for sock in (first, second):
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
        deadline = Deadline(monkeypatch, HOUR)
        dialling = asyncio.get_running_loop().create_task(
            failure(at(config, port=full.getsockname()[1], connect_timeout=HOUR))
        )
        await deadline.begins(2)  # the dial's, and that of its only address
        deadline.passes()
        async with asyncio.timeout(60):
            found = await dialling
    assert isinstance(found, ConnectTimeout)
    assert found.stage is Stage.TCP
    assert "within 3600 s" in str(found)


async def test_the_next_address_is_tried_when_the_first_is_silent(
    config: GatewayConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of a name's two addresses drops packets. The dial keeps half of its time for the second."""
    async with Peer(says(b"", then="close")) as peer:
        port = peer.endpoint.port
        with (
            socket.create_server(("127.0.0.2", port), backlog=0) as full,
            socket.socket() as first,
            socket.socket() as second,
        ):
            for sock in (first, second):
                sock.setblocking(False)
                sock.connect_ex(full.getsockname())

            async def two_addresses(*_: object, **__: object) -> list[Address]:
                return [Address(socket.AF_INET, (address, port)) for address in ("127.0.0.2", "127.0.0.1")]

            # Patched, because no test machine has a name with a dead address.
            monkeypatch.setattr("proxy.ssh.login.tcp.resolve", two_addresses)
            deadline = Deadline(monkeypatch, HOUR / 2)
            dialling = asyncio.get_running_loop().create_task(
                failure(at(config, host="two.example", port=port, connect_timeout=HOUR))
            )
            await deadline.begins()
            deadline.passes()
            async with asyncio.timeout(60):
                found = await dialling
            assert isinstance(found, HandshakeFailed), found
            assert peer.accepted == 1


async def test_a_bindaddress_may_be_a_name() -> None:
    """The name is resolved like the server's, and not by the loop, whose few threads serve all gateways."""
    sources: list[str] = []

    async def play(_: StreamReader, writer: StreamWriter) -> None:
        sources.append(writer.get_extra_info("peername")[0])

    async with Peer(play) as peer:
        tcp = Tcp("server", 60.0, 1.0, Place("names"), "localhost")
        await tcp.resolve("127.0.0.1", peer.endpoint.port, socket.AF_INET)
        transport, _ = await tcp.create_connection(asyncio.Protocol, "", peer.endpoint.port)
        transport.close()
        async with asyncio.timeout(30):
            while not sources:
                await asyncio.sleep(0.001)
    assert sources == ["127.0.0.1"]
    nowhere = Tcp("server", 60.0, 1.0, Place("names"), "no.such.name.invalid")
    with pytest.raises(Unresolvable, match=r"^BindAddress no\.such\.name\.invalid does not resolve"):
        await nowhere.resolve("127.0.0.1", 22, socket.AF_INET)


async def test_agent_true_without_an_agent_is_an_error(
    config: GatewayConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = at(config, agent=True, identity_files=())
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    found = await failure(config)
    assert isinstance(found, CredentialsUnusable)
    assert "SSH_AUTH_SOCK is not set" in str(found)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "gone"))
    found = await failure(config)
    assert f"no agent at {tmp_path / 'gone'}" in str(found)
    assert found.retry is RetryClass.SOON


async def test_a_file_that_hangs_is_given_up(config: GatewayConfig, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    places = Places()
    places.settings = Impatient(f"reading {pipe}")
    with pytest.raises(CredentialsUnusable, match=f"reading {pipe} has been hanging since 20") as caught:
        await dial(at(config, passphrase_file=pipe), {}, Handshakes(), lambda _: None, places=places)
    assert caught.value.retry is RetryClass.SOON
    with pipe.open("w"):  # lets the thread that reads it end
        pass


@pytest.mark.sshd
class TestCancelled:
    """A dial that is cancelled at any moment leaves no socket, no task and no session."""

    async def cut_short(self, config: GatewayConfig, gateways: dict[str, GatewayConfig]) -> int:
        """Cancel a dial after one turn of the loop, the next after two, … until a dial succeeds.

        Returns how many were cancelled.
        """
        turns = 0
        while True:
            task = asyncio.get_running_loop().create_task(
                dial(config, gateways, Handshakes(), lambda _: None), name=f"cut after {turns}"
            )
            for _ in range(turns):
                await asyncio.sleep(0)
            if task.done():
                for conn in reversed(task.result().conns):
                    conn.abort()
                return turns
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            turns = turns + 1 if turns < 60 else turns * 2

    async def check(self, config: GatewayConfig, gateways: dict[str, GatewayConfig], *sshds: Sshd) -> None:
        async with dialled(config, gateways):  # after this, all that is made once per loop exists
            pass
        tasks = asyncio.all_tasks()
        files = {(fd, target) for fd, target in open_files().items() if "[" in target}
        assert await self.cut_short(config, gateways) > 20
        async with asyncio.timeout(30):
            # What the first dial has left may close in the meantime.
            while {
                (fd, t) for fd, t in open_files().items() if "[" in t
            } - files or asyncio.all_tasks() - tasks:
                await asyncio.sleep(0.01)
            for sshd in sshds:
                while await asyncio.to_thread(sshd.sessions):
                    await asyncio.sleep(0.01)

    @pytest.mark.both_loops
    async def test_a_dial_that_is_cancelled_at_any_turn_leaves_nothing(
        self, sshd_factory: SshdFactory
    ) -> None:
        sshd = sshd_factory(config={"MaxStartups": "1000"})
        await self.check(config_for(sshd), {}, sshd)

    async def test_a_dial_of_a_chain_that_is_cancelled_at_any_turn_leaves_nothing(
        self, sshd_factory: SshdFactory
    ) -> None:
        jump, last = (sshd_factory(config={"MaxStartups": "1000"}) for _ in range(2))
        await self.check(config_for(last, jump=["jump"]), {"jump": config_for(jump)}, jump, last)


@pytest.mark.sshd
async def test_the_end_of_a_connection_is_reported_once(sshd: Sshd) -> None:
    ends: list[Exception | None] = []
    told = asyncio.Event()

    def on_lost(exc: Exception | None) -> None:
        ends.append(exc)
        told.set()

    result = await dial(config_for(sshd), {}, Handshakes(), on_lost)
    assert result.server == f"127.0.0.1:{sshd.port}"
    assert result.handshake > 0
    await asyncio.to_thread(sshd.stop)
    async with asyncio.timeout(30):
        await told.wait()
        await result.conns[0].wait_closed()
    assert len(ends) == 1


async def test_servers_that_reset_each_connection_at_once_leave_nothing_behind(tmp_path: Path) -> None:
    """asyncssh sometimes sees the reset before the dial has set the socket's options. Its exception must not
    end in the log as one that nobody retrieved.
    """
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
    key = ssh_keys.new_key(tmp_path / "key")
    (tmp_path / "known_hosts").write_text(f"* {ssh_keys.public(key)}\n")

    def serve(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                sock, _ = listener.accept()
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
                sock.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=[listener])
        thread.start()
        section = {"host": "127.0.0.1", "port": listener.getsockname()[1], "user": "root"}
        files = {"identity_files": [str(key)], "known_hosts": [str(tmp_path / "known_hosts")]}
        for _ in range(100):
            assert (await failure(read(GatewayConfig, section | files))).reason in {
                "unreachable",
                "handshake_failed",
            }
        listener.shutdown(socket.SHUT_RDWR)
        await asyncio.to_thread(thread.join)
    gc.collect()
    assert complaints == []
