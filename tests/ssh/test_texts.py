"""Texts that a server sends: they cannot prevent a login, they are shortened, and control characters are
removed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import asyncssh
import pytest
from asyncssh.packet import Boolean, String, UInt32

from proxy.config.model import GatewayConfig
from proxy.errors import BadVersion, ChannelError, HandshakeFailed, RetryClass, Stage
from tests.ssh.conftest import ORIGIN, Watched, dialled, failure, started
from tests.support import other_servers, ssh_keys

pytestmark = pytest.mark.usefixtures("data_plane")

LONG = "Zugriff nur für Befugte \x1b]0;title\x07\x9b31m\u202e" + "x" * 5000
LATIN = LONG.replace("\u202e", "").encode("latin-1")

DISCONNECT, DEBUG, BANNER, OPEN_FAILURE = 1, 4, 53, 92

Say = Callable[[Any], None]


class _Wordy(asyncssh.SSHServer):
    def __init__(self, conns: list[asyncssh.SSHServerConnection], at_login: Say, at_open: Say) -> None:
        self._conns = conns
        self._at_login = at_login
        self._at_open = at_open

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._conns.append(conn)

    def begin_auth(self, username: str) -> bool:
        self._at_login(self._conns[-1])
        return True

    def connection_requested(self, *_: object) -> bool:
        self._at_open(self._conns[-1])
        raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, LONG)


def nothing(conn: Any) -> None:
    del conn


@asynccontextmanager
async def saying(
    folder: Path, *, at_login: Say = nothing, at_open: Say = nothing
) -> AsyncIterator[GatewayConfig]:
    async with other_servers.asyncssh_server(
        folder, lambda conns: _Wordy(conns, at_login, at_open)
    ) as config:
        yield config


def greets(conn: Any) -> None:
    conn.send_packet(DEBUG, Boolean(True), String(LATIN), String(""))
    conn.send_packet(BANNER, String(LATIN), String(""))


def dismisses(conn: Any) -> None:
    conn.send_packet(DISCONNECT, UInt32(12), String(LATIN), String(""))


def is_fit(text: str) -> bool:
    return text.isprintable() and len(text) < 400


async def open_channel(gateway: Watched) -> None:
    await gateway.open_channel(ORIGIN, origin=ORIGIN, hold_until=asyncio.get_running_loop().time())


async def test_a_banner_that_is_not_utf_8_does_not_prevent_the_login(tmp_path: Path) -> None:
    async with saying(tmp_path, at_login=greets) as config, dialled(config) as link:
        assert len(link.conns) == 1


async def test_the_text_of_a_disconnect_during_login_is_reported(tmp_path: Path) -> None:
    async with saying(tmp_path, at_login=dismisses) as config:
        found = await failure(config)
    assert isinstance(found, HandshakeFailed)
    assert "Zugriff nur f" in str(found)
    assert is_fit(str(found)), str(found)


async def test_the_text_of_a_disconnect_of_a_link_is_reported(tmp_path: Path) -> None:
    async with saying(tmp_path, at_open=dismisses) as config, started(config) as gateway:
        await gateway.until(lambda: gateway.links == 1)
        with pytest.raises(Exception, match=r"lost|could not connect"):
            await open_channel(gateway)
        await gateway.until(lambda: gateway.snapshot().reason == "link_lost")
        assert "Zugriff nur f" in gateway.snapshot().message
        assert is_fit(gateway.snapshot().message)


async def test_the_text_of_a_refused_channel_is_reported(tmp_path: Path) -> None:
    async with saying(tmp_path) as config, started(config) as gateway:
        await gateway.until(lambda: gateway.links == 1)
        with pytest.raises(ChannelError, match="Zugriff nur für Befugte") as refused:
            await open_channel(gateway)
        assert is_fit(str(refused.value))


async def test_a_version_that_is_not_ascii_has_a_reason_of_its_own(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write("SSH-2.0-Größe\x1b[2J\r\n".encode())
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with saying(tmp_path) as config, server:
        port = server.sockets[0].getsockname()[1]
        found = await failure(config.model_copy(update={"port": port}))
    assert isinstance(found, BadVersion)
    assert (found.reason, found.stage, found.retry) == ("bad_version", Stage.SSH, RetryClass.SOON)
    assert "SSH-2.0-Größe" in str(found)
    assert is_fit(str(found))


async def test_a_host_key_that_changes_in_a_later_key_exchange_ends_the_link(tmp_path: Path) -> None:
    conns: list[Any] = []
    async with saying(tmp_path, at_login=conns.append) as config, started(config) as gateway:
        await gateway.until(lambda: gateway.links == 1)
        (conn,) = conns
        other = asyncssh.load_keypairs(str(ssh_keys.new_key(tmp_path / "other")))[0]
        conn._server_host_keys = dict.fromkeys(other.host_key_algorithms, other)
        cast("Any", conn)._send_kexinit()
        conn._kexinit_sent = True
        await gateway.until(
            lambda: gateway.metric("gateway_reconnects_total", reason="host_key_changed") == 1
        )
        assert gateway.links == 1, "a server that shows the right key again is trusted"
