"""The admin client looks for the daemon where the configuration file says, otherwise at the usual places."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.admin import client
from proxy.admin.finding import find, usual_places
from proxy.admin.usual import proposed
from proxy.config.model import AdminConfig
from proxy.errors import AdminError, ConfigError
from proxy.runtime.endpoint import Endpoint
from tests.admin.scripted import DAEMON, Daemon, serving

NOWHERE = Endpoint("127.0.0.1", 1)


@pytest.mark.parametrize(
    "text",
    [
        "admin: [",
        "\x00",
        "",
        "# nothing\n",
        "hello world\n",
        "- admin\n",
        "version: 1\nadmin: {lissen: x}\n",
        None,
    ],
)
async def test_a_daemon_is_found_although_its_file_is_missing_or_invalid(
    tmp_path: Path, text: str | None
) -> None:
    path, socket = tmp_path / "config.yaml", tmp_path / "s"
    if text is not None:
        path.write_text(text)
    daemon = Daemon(replace(DAEMON, config_path=str(path)))
    async with serving(daemon, socket) as endpoint:
        found = [
            await asyncio.to_thread(find, [path], places=[socket, endpoint], orders=True),
            await asyncio.to_thread(find, [path], places=[socket.with_name("missing"), endpoint]),
        ]
        assert found == [(AdminConfig(socket=socket), path), (AdminConfig(listen=endpoint), path)]
        with pytest.raises(ConfigError):  # no socket, so orders are not possible
            await asyncio.to_thread(find, [path], places=[endpoint], orders=True)
        with pytest.raises(ConfigError) as other:
            await asyncio.to_thread(find, [tmp_path / "another.yaml"], places=[socket])
        assert f"{socket}: the kubemux there runs with {path}, not with " in other.value.render()
        assert f"hint: --config {path} asks that one; " in other.value.render()


async def test_of_two_missing_files_the_one_of_a_running_daemon_is_used(tmp_path: Path) -> None:
    machines, users, socket = tmp_path / "etc.yaml", tmp_path / "own.yaml", tmp_path / "s"
    async with serving(Daemon(replace(DAEMON, config_path=str(users))), socket):
        assert await asyncio.to_thread(find, [machines, users], places=[socket]) == (
            AdminConfig(socket=socket),
            users,
        )


async def test_the_error_says_how_to_find_a_daemon_at_another_address(tmp_path: Path) -> None:
    places: list[Path | Endpoint] = [tmp_path / "s", NOWHERE]
    with pytest.raises(ConfigError) as caught:
        await asyncio.to_thread(find, [tmp_path / "gone.yaml"], places=places)
    assert caught.value.render().splitlines() == [
        f"{tmp_path}/gone.yaml: the file does not exist",
        "  hint: check the spelling, or create it",
        f"{tmp_path}/gone.yaml: and no kubemux answers at {tmp_path}/s, http://127.0.0.1:1",
        "  hint: does one run that has another address? Its log names its socket (`taking orders`): a file "
        "with `admin: {socket: PATH}` in this place finds it, kill -TERM PID stops it",
    ]


async def test_a_socket_that_the_user_may_not_use_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/run/kubemux belongs to the service."""

    async def denied(where: Path, path: Path) -> object:
        raise AdminError(f"{where}: Permission denied", hint="use sudo") from PermissionError()

    monkeypatch.setattr(client, "status_at", denied)
    with pytest.raises(ConfigError) as caught:
        await asyncio.to_thread(find, [tmp_path / "gone.yaml"], places=[tmp_path / "s"])
    assert caught.value.render().endswith(f"{tmp_path}/s: Permission denied\n  hint: use sudo")


@pytest.mark.parametrize("text", ["version: 1\n", "version: 1\nadmin: {listen: '127.0.0.1:1'}\n"])
async def test_orders_find_the_daemon_although_its_file_has_lost_the_socket(
    tmp_path: Path, text: str
) -> None:
    path, socket = tmp_path / "config.yaml", tmp_path / "s"
    path.write_text(text)

    async def found(*, orders: bool) -> Path | None:
        places: list[Path | Endpoint] = [socket, NOWHERE]
        admin, _ = await asyncio.to_thread(find, [path], places=places, orders=orders)
        return admin.socket

    assert await found(orders=True) is None
    async with serving(Daemon(replace(DAEMON, config_path=str(path))), socket):
        assert await found(orders=True) == socket
        assert await found(orders=False) is None, "to read, its address will do"
    async with serving(Daemon(), socket):  # a daemon that runs with another file
        assert await found(orders=True) is None


def test_the_admin_section_is_read_although_the_rest_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"version: 1\nadmin: {{listen: '127.0.0.1:7', socket: {tmp_path}/s}}\nclusterz: {{}}\n")
    assert find([path])[0] == AdminConfig(listen=Endpoint("127.0.0.1", 7), socket=tmp_path / "s")
    path.write_text("version: 1\n")
    assert find([path])[0] == AdminConfig()


@pytest.mark.parametrize("text", ["", "admin: 7\n", "admin: {lissen: x}\nversion: 1\n", "- a\n", "admin: ["])
def test_an_admin_section_that_is_wrong_is_reported(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        find([path], places=[NOWHERE])


def test_the_usual_places_depend_on_the_users_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/user")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    monkeypatch.setenv("XDG_STATE_HOME", "not/absolute")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    assert list(map(str, usual_places())) == [
        "/run/kubemux/admin.sock",
        "/run/user/1000/kubemux/admin.sock",
        "/home/user/.local/state/kubemux/admin.sock",
        "/home/user/.config/kubemux/admin.sock",
        "127.0.0.1:9464",
    ]
    monkeypatch.setenv("HOME", "/nonexistent")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert list(map(str, usual_places())) == ["/run/kubemux/admin.sock", "127.0.0.1:9464"]


@pytest.mark.parametrize(
    ("uid", "home", "socket"),
    [
        (0, "/root", "/run/kubemux/admin.sock"),
        (1000, "/home/user", "~/.config/kubemux/admin.sock"),
        (1000, "/nonexistent", "/run/kubemux/admin.sock"),
    ],
)
def test_a_socket_is_proposed_where_the_user_may_make_one(
    uid: int, home: str, socket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setenv("HOME", home)
    monkeypatch.setenv("XDG_RUNTIME_DIR", f"/run/user/{uid}")
    assert proposed() == socket
