"""Asking a daemon that is there, is not, is slow, or is something else."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.admin import client
from proxy.admin.status import to_document
from proxy.config.model import AdminConfig
from proxy.config.values import Endpoint
from proxy.errors import AdminError, ConfigError, Problem, UnknownName
from tests.admin.scripted import DAEMON, Daemon, serving
from tests.support.serving import Server

NOWHERE = Endpoint("127.0.0.1", 1)


class Foreign(Server):
    """Answers every connection with `answer`; with none it never does."""

    def __init__(self, answer: bytes) -> None:
        super().__init__()
        self._answer = answer

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(self._answer)
        if not self._answer:
            await reader.read()


async def test_status_comes_through_the_socket_or_else_over_tcp(tmp_path: Path) -> None:
    socket_path = tmp_path / "s"
    async with serving(Daemon(), socket_path) as endpoint:
        for admin in (
            AdminConfig(listen=NOWHERE, socket=socket_path),
            AdminConfig(listen=endpoint, socket=tmp_path / "missing"),
            AdminConfig(listen=endpoint),
        ):
            assert await client.fetch_status(admin) == to_document(DAEMON)


async def test_orders_and_their_failures(tmp_path: Path) -> None:
    daemon = Daemon()
    async with serving(daemon, tmp_path / "s") as endpoint:
        admin = AdminConfig(listen=endpoint, socket=tmp_path / "s")
        assert await client.command(admin, "drain", params={"cluster": "a b"}, budget=5) == {"cluster": "a b", "cut": 0}
        with pytest.raises(UnknownName, match="no gateway is called 'us-wets'") as unknown:
            await client.command(admin, "reconnect", params={"gateway": "us-wets"}, budget=5)
        assert unknown.value.hint == "did you mean us-west? there are: eu-edge, us-west"
        daemon.failure = ConfigError("/k.yaml", [Problem(3, "clusters", "bad", "do good"), Problem(0, "", "worse")])
        with pytest.raises(ConfigError) as refused:
            await client.command(admin, "reload", budget=5)
        assert refused.value.render() == daemon.failure.render()
        with pytest.raises(AdminError, match=r"no admin\.socket"):
            await client.command(AdminConfig(listen=endpoint), "reload", budget=5)


async def test_nobody_there(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s"))
    with pytest.raises(AdminError) as caught:
        await client.fetch_status(AdminConfig(listen=NOWHERE, socket=tmp_path / "s"))
    assert str(caught.value) == f"{tmp_path}/s: Connection refused; http://127.0.0.1:1: Connection refused"
    assert "systemctl status kubemux" in caught.value.hint


@contextmanager
def as_somebody_else() -> Iterator[None]:
    """Root may open every socket: be `nobody` for a while."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


async def test_a_user_who_may_not_use_the_socket_may_still_read(tmp_path: Path) -> None:
    async with serving(Daemon(), tmp_path / "s") as endpoint:
        (tmp_path / "s").chmod(0)
        admin = AdminConfig(listen=endpoint, socket=tmp_path / "s")
        with as_somebody_else():
            assert await client.fetch_status(admin) == to_document(DAEMON)
            with pytest.raises(AdminError, match="Permission denied") as caught:
                await client.command(admin, "reload", budget=5)
    assert "sudo" in caught.value.hint


async def test_a_daemon_that_hangs() -> None:
    async with Foreign(b"") as silent:
        with pytest.raises(AdminError, match=r"no answer within 0\.05 s"):
            await client._ask("GET", "/", socket=None, admin=AdminConfig(listen=silent.endpoint), budget=0.05)


async def test_an_order_to_a_daemon_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be said to have the order."""
    monkeypatch.setattr(client, "ASK_TIMEOUT", 0.05)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "s"))
        silent.listen()
        with pytest.raises(AdminError, match=r"no answer within 0\.05 s") as caught:
            await client.command(AdminConfig(listen=NOWHERE, socket=tmp_path / "s"), "drain", budget=0.05)
    assert "the daemon hangs" in caught.value.hint


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "not as kubemux does"),
        (b"SSH-2.0-OpenSSH\r\n", "the connection broke"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", "the connection broke"),
    ],
)
async def test_something_else_answers(answer: bytes, complaint: str) -> None:
    async with Foreign(answer) as other:
        with pytest.raises(AdminError, match=complaint):
            await client.fetch_status(AdminConfig(listen=other.endpoint))


@pytest.mark.parametrize(
    "text", ["admin: [", "\x00", "", "# nothing\n", "hello world\n", "- admin\n", "version: 1\nadmin: {lissen: x}\n", None]
)
async def test_a_daemon_whose_file_has_become_garbage_is_still_found(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "config.yaml"
    if text is not None:
        path.write_text(text)
    daemon = Daemon(replace(DAEMON, config_path=str(path)))
    async with serving(daemon, tmp_path / "s") as endpoint:
        over_tcp = AdminConfig(listen=endpoint, socket=tmp_path / "missing")
        with_socket = AdminConfig(listen=endpoint, socket=tmp_path / "s")
        found = [
            await asyncio.to_thread(client.admin_section, path, with_socket, orders=True),
            await asyncio.to_thread(client.admin_section, path, over_tcp),
        ]
        assert found == [with_socket, AdminConfig(listen=endpoint)]
        with pytest.raises(ConfigError):  # no socket: nobody there takes orders
            await asyncio.to_thread(client.admin_section, path, over_tcp, orders=True)
        with pytest.raises(ConfigError):  # that daemon runs with another file
            await asyncio.to_thread(client.admin_section, tmp_path / "another.yaml", with_socket)


@pytest.mark.parametrize("text", ["version: 1\n", "version: 1\nadmin: {listen: '127.0.0.1:1'}\n"])
async def test_a_file_that_has_lost_its_socket_does_not_hide_the_daemon_from_orders(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    usual = AdminConfig(listen=NOWHERE, socket=tmp_path / "s")
    absent = await asyncio.to_thread(client.admin_section, path, usual, orders=True)
    assert absent.socket is None
    async with serving(Daemon(replace(DAEMON, config_path=str(path))), tmp_path / "s"):
        assert await asyncio.to_thread(client.admin_section, path, usual, orders=True) == usual
        assert (await asyncio.to_thread(client.admin_section, path, usual)).socket is None, "to read, its address will do"
    async with serving(Daemon(), tmp_path / "s"):  # runs with another file
        assert (await asyncio.to_thread(client.admin_section, path, usual, orders=True)).socket is None


def test_the_admin_section_is_read_although_the_rest_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"version: 1\nadmin: {{listen: '127.0.0.1:7', socket: {tmp_path}/s}}\nclusterz: {{}}\n")
    assert client.admin_section(path) == AdminConfig(listen=Endpoint("127.0.0.1", 7), socket=tmp_path / "s")
    path.write_text("version: 1\n")
    assert client.admin_section(path) == AdminConfig()


@pytest.mark.parametrize("text", ["", "admin: 7\n", "admin: {lissen: x}\nversion: 1\n", "- a\n", "admin: ["])
def test_an_admin_section_that_is_wrong_is_reported(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        client.admin_section(path, AdminConfig(listen=NOWHERE))
