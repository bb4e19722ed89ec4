"""Clients that have not logged in: their number and time are limited, and failing sources are locked out."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import asyncssh
import pytest
from structlog.testing import capture_logs

from proxy.errors.reasons import Reason
from proxy.ssh.server import penalties, refusals
from tests.support.ssh_bed import HOST, WAIT_S, SshBed

pytestmark = pytest.mark.sshd

MANY = 100
OWN = [{"networks": ["127.0.0.0/8"], "max_startups": 5000}]


@contextmanager
def silent(bed: SshBed, count: int, host: str = "127.0.0.1") -> Iterator[list[socket.socket]]:
    """Clients that connect, and send nothing."""
    socks = [socket.socket() for _ in range(count)]
    try:
        for sock in socks:
            sock.bind((host, 0))
            sock.connect(bed.address)
            sock.settimeout(WAIT_S)
        yield socks
    finally:
        for sock in socks:
            sock.close()


async def received(sock: socket.socket) -> bytes:
    """All that the server sends until it closes."""
    reader, writer = await asyncio.open_connection(sock=sock.dup())
    try:
        async with asyncio.timeout(WAIT_S):
            return await reader.read()
    finally:
        writer.close()


async def until(bed: SshBed, reason: Reason, count: int = 1) -> None:
    """Wait until so many logins have ended with this result."""
    async with asyncio.timeout(WAIT_S):
        while bed.record.results[reason] < count:
            await asyncio.sleep(0.01)


async def opened(bed: SshBed, count: int) -> None:
    async with asyncio.timeout(WAIT_S):
        while bed.record.startups < count:
            await asyncio.sleep(0.01)


async def test_connections_of_one_source_are_limited(tmp_path: Path) -> None:
    async with SshBed(tmp_path / "bed", per_source_max_startups=3) as bed:
        with silent(bed, 3) as socks, capture_logs() as logs:
            await opened(bed, 3)
            with silent(bed, 1) as [fourth]:
                assert await received(fourth) == b"Not allowed at this time\r\n"
            with silent(bed, 1, host="127.0.0.2") as [other]:
                await opened(bed, 4)
                socks[0].close()
                await until(bed, Reason.NO_LOGIN)
                found = await bed.ssh(bed.ops, "true")
                assert "kubemux only forwards" in found.said
                assert other.recv(100).startswith(b"SSH-2.0-kubemux")
        assert [(line["source"], line["clients"]) for line in logs if line["event"] == "logins refused"] == [
            ("127.0.0.1", 1)
        ]


async def test_all_clients_that_have_not_logged_in_are_limited_together(tmp_path: Path) -> None:
    async with SshBed(tmp_path / "bed", max_startups=4, per_source_max_startups=2) as bed:
        with silent(bed, 2), silent(bed, 2, host="127.0.0.2"):
            await opened(bed, 4)
            with silent(bed, 1, host="127.0.0.3") as [fifth]:
                assert await received(fifth) == b"Not allowed at this time\r\n"
    assert bed.record.results[Reason.STARTUPS] == 1


async def test_a_login_has_a_deadline(tmp_path: Path) -> None:
    async with SshBed(tmp_path / "bed", login_timeout="1s") as bed:
        with silent(bed, 1) as [sock]:
            assert (await received(sock)).startswith(b"SSH-2.0-kubemux")
        await until(bed, Reason.LOGIN_TIMEOUT)
        assert bed.record.startups == 0


async def test_a_slow_version_line_does_not_extend_the_deadline(tmp_path: Path) -> None:
    async with SshBed(tmp_path / "bed", login_timeout="1s") as bed:
        reader, writer = await bed.connect()
        async with asyncio.timeout(WAIT_S):
            while not reader.at_eof() and not writer.is_closing():
                writer.write(b"S")
                with suppress(TimeoutError, ConnectionError):
                    await asyncio.wait_for(reader.read(100), 0.05)
        await until(bed, Reason.LOGIN_TIMEOUT)
        writer.close()


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", Reason.HANDSHAKE_FAILED),
        (b"SSH-1.5-old\r\n", Reason.HANDSHAKE_FAILED),
        (b"SSH-2.0-" + b"x" * 300 + b"\r\n", Reason.HANDSHAKE_FAILED),
        (b"SSH-2.0-\xff\r\n", Reason.HANDSHAKE_FAILED),
        (b"SSH-2.0-x\r\n" + 300 * (b"\0\0\0\x0c\x06\x02" + b"\0" * 10), Reason.HANDSHAKE_FAILED),
        (b"x" * 100_000, Reason.HANDSHAKE_FAILED),
        (b"SSH-2.0-x\r\n" + (65 << 10).to_bytes(4) + b"\0" * 8192, Reason.HANDSHAKE_FAILED),
        (b"SSH-2.0-x\r\n" + b"\0\0\0\x0c\x0a\x32" + b"\0" * 10, Reason.HANDSHAKE_FAILED),
        (b"SSH-2.0-x\r\n", Reason.NO_LOGIN),
        (b"", Reason.NO_LOGIN),
    ],
    ids=[
        "http",
        "ssh1",
        "long version",
        "odd version",
        "flood",
        "no line",
        "large packet",
        "login before keys",
        "leaves",
        "silent",
    ],
)
async def test_a_protocol_error_ends_the_connection(tmp_path: Path, said: bytes, reason: Reason) -> None:
    """The log has a warning. A client that only connects and leaves causes none, because port checks do that
    all day.
    """
    async with SshBed(tmp_path / "bed") as bed:
        with bed.plain() as sock, capture_logs() as logs:
            sock.sendall(said)
            sock.shutdown(socket.SHUT_WR)
            await until(bed, reason)
        assert bed.record.results.total() == 1
        assert bed.record.startups == 0
    [line] = [line for line in logs if line["event"] == "login refused"]
    assert line["log_level"] == ("info" if reason is Reason.NO_LOGIN else "warning")
    assert line["clients"] == 1
    words = "it does not speak SSH 2.0: ", "it does not keep to the SSH protocol: "
    assert reason is Reason.NO_LOGIN or line["message"].startswith(words)


async def test_one_log_entry_stands_for_all_clients_that_leave_before_they_send_a_user_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "SELDOM_S", 3600.0)
    comers = [*((HOST, b""), (HOST, b"GET /\r\n")) * 2, ("127.0.0.2", b"")]
    async with SshBed(tmp_path / "bed") as bed:
        with capture_logs() as logs:
            for host, said in comers:
                with silent(bed, 1, host=host) as [sock]:
                    sock.sendall(said)
                    sock.shutdown(socket.SHUT_WR)
                    await received(sock)
            await until(bed, Reason.NO_LOGIN, 3)
            await until(bed, Reason.HANDSHAKE_FAILED, 2)
            for _ in range(2):
                await bed.ssh(bed.stranger, "true")
    told = [(line["client"].partition(":")[0], line["reason"]) for line in logs]
    assert sorted(told) == [
        (HOST, Reason.HANDSHAKE_FAILED),
        (HOST, Reason.NO_LOGIN),
        (HOST, Reason.UNKNOWN_KEY),
        (HOST, Reason.UNKNOWN_KEY),
        ("127.0.0.2", Reason.NO_LOGIN),
    ]


async def test_the_number_of_remembered_sources_of_such_clients_is_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "SELDOM_S", 3600.0)
    monkeypatch.setattr(refusals, "MOST_UNNAMED", 1)
    async with SshBed(tmp_path / "bed") as bed:
        with capture_logs() as logs:
            for count, host in enumerate((HOST, HOST, "127.0.0.2", HOST), 1):
                with silent(bed, 1, host=host):
                    await opened(bed, 1)
                await until(bed, Reason.NO_LOGIN, count)
    assert [(line["client"].partition(":")[0], line["clients"]) for line in logs] == [
        (HOST, 1),
        ("127.0.0.2", 1),
        (HOST, 1),
    ]


@pytest.mark.parametrize("seed", range(4))
async def test_damaged_handshakes_leave_nothing_behind(tmp_path: Path, seed: int) -> None:
    """OpenSSH's first bytes, changed, cut off or doubled: each connection ends, and is counted once."""
    async with SshBed(tmp_path / "bed", sources=OWN) as bed:
        said = await first_words(bed)
        bed.allow_time(1.0)
        before = bed.record.results.total()
        drawn = random.Random(seed)  # noqa: S311 - no secret
        for _ in range(10):
            damaged = bytearray(said)
            for _ in range(drawn.randint(1, 4)):
                at = drawn.randrange(len(damaged))
                match drawn.choice(["change", "cut", "double", "insert"]):
                    case "change":
                        damaged[at] = drawn.randrange(256)
                    case "cut":
                        del damaged[at : at + drawn.randrange(1, 20)]
                    case "double":
                        damaged[at:at] = damaged[at : at + drawn.randrange(1, 100)]
                    case "insert":
                        damaged[at:at] = drawn.randbytes(drawn.randrange(1, 300))
            with bed.plain() as sock, suppress(ConnectionError):
                sock.sendall(damaged)
        async with asyncio.timeout(WAIT_S):
            while bed.record.results.total() < before + 10 or bed.record.startups:
                await asyncio.sleep(0.01)
        assert bed.record.results.total() == before + 10
        assert not bed.guests
        bed.allow_time(WAIT_S)
        found = await bed.ssh(bed.ops, "true")
        assert "kubemux only forwards" in found.said


async def first_words(bed: SshBed) -> bytes:
    """The bytes that OpenSSH sends before encryption."""
    said = bytearray()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, into: bytearray) -> None:
        while data := await reader.read(65536):
            into += data
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, outer = await bed.connect()
        with suppress(ConnectionError):
            await asyncio.gather(carry(reader, outer, said), carry(inner, writer, bytearray()))

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as relay:
        port = relay.sockets[0].getsockname()[1]
        await bed.ssh(None, "true", port=port)
    assert said.startswith(b"SSH-2.0-OpenSSH")
    return bytes(said)


async def test_wrong_keys_lock_out_their_source_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(penalties, "REFUSED_S", 100.0)  # the first is enough, however slow the machine
    async with SshBed(tmp_path / "bed") as bed:
        with capture_logs() as logs:
            await bed.ssh(bed.stranger, "true")
            found = await bed.ssh(bed.ops, "true")
        assert "kex_exchange_identification" in found.said
        assert bed.record.results == {Reason.UNKNOWN_KEY: 1, Reason.PENALTY: 1}
        [line] = [line for line in logs if line["event"] == "source is closed out"]
        assert (line["source"], line["reason"], line["seconds"]) == ("127.0.0.1", Reason.PENALTY, 100)
        found = await bed.ssh(bed.ops, "-b", "127.0.0.2", "true")
        assert "kubemux only forwards" in found.said


async def test_the_operators_networks_get_no_penalty(tmp_path: Path) -> None:
    async with SshBed(tmp_path / "bed", sources=OWN) as bed:
        for _ in range(4):
            await bed.ssh(bed.stranger, "true")
        found = await bed.ssh(bed.ops, "true")
        assert "kubemux only forwards" in found.said
        assert bed.record.results == {Reason.UNKNOWN_KEY: 4, Reason.OK: 1}


async def test_other_methods_are_refused(tmp_path: Path) -> None:
    async with SshBed(tmp_path / "bed", sources=OWN) as bed:
        with pytest.raises(asyncssh.PermissionDenied):
            await asyncssh.connect(
                *bed.address,
                username="ops",
                password="x",  # noqa: S106 - not one
                client_keys=None,
                known_hosts=None,
                config=None,
            )
        for method in ("password", "keyboard-interactive", "hostbased", "none"):
            found = await bed.ssh(bed.ops, "-o", f"PreferredAuthentications={method}", "true", user="ops")
            assert "Permission denied (publickey)" in found.said
        assert not bed.guests
        assert Reason.OK not in bed.record.results


async def test_failed_attempts_are_limited(tmp_path: Path) -> None:
    async with SshBed(tmp_path / "bed", sources=OWN) as bed:
        keys = [asyncssh.generate_private_key("ssh-ed25519") for _ in range(40)]
        with pytest.raises(asyncssh.DisconnectError, match="too many keys"):
            await asyncssh.connect(
                *bed.address, username="ops", client_keys=keys, known_hosts=None, config=None, agent_path=None
            )
        assert bed.record.results == {Reason.UNKNOWN_KEY: 1}


async def test_many_logins_at_once_from_the_operators_network_are_served(tmp_path: Path) -> None:
    """The clients wait for their turn: at most `max_startups` of them exchange keys at a time."""
    async with SshBed(tmp_path / "bed", sources=OWN, max_startups=20, login_timeout="60s") as bed:
        key = asyncssh.generate_private_key("ssh-ed25519")
        bed.authorize("users", "ops", key.export_public_key().decode().strip())
        bed.reread()
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, bed.server.under_way)
                await asyncio.sleep(0.001)

        options = asyncssh.SSHClientConnectionOptions(
            username="ops", client_keys=[key], known_hosts=None, config=None, agent_path=None
        )

        async def login() -> None:
            conn = await asyncssh.connect(*bed.address, options=options)
            conn.abort()
            await conn.wait_closed()

        async with asyncio.timeout(280), asyncio.TaskGroup() as group:
            watching = group.create_task(watch())
            await asyncio.gather(*(login() for _ in range(MANY)))
            watching.cancel()
        assert bed.record.results == {Reason.OK: MANY}
        assert 0 < most <= 20
