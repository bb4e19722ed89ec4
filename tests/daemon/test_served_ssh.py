"""The SSH server of a running daemon: its address, its host keys, its clients' keys, and their changes."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import asyncssh
import pytest
from structlog.testing import capture_logs

from proxy.config.loader import load
from proxy.daemon import served_ssh
from proxy.daemon.daemon import Daemon
from proxy.daemon.orders import Controller
from proxy.daemon.reload import reload
from proxy.daemon.renewal import Renewal
from proxy.errors import ConfigError
from proxy.errors.reasons import Reason
from proxy.ssh.server import penalties
from tests.support import ssh_keys
from tests.support.daemon import Daemon as Written
from tests.support.ports import free_port


class Bed:
    """A daemon in this loop with an SSH server, a user and a site."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.host_key, self.ops, self.edge, self.other = (
            ssh_keys.new_key(folder / name) for name in ("host", "ops", "edge", "other")
        )
        self.keys = {name: folder / f"{name}.keys" for name in ("ops", "edge")}
        self.let_in("ops", self.ops)
        self.let_in("edge", self.edge)
        self.port = free_port()
        self.sections: dict[str, object] = {
            "users": {"ops": {"authorized_keys": [str(self.keys["ops"])]}},
            "sites": {"edge": {"authorized_keys": [str(self.keys["edge"])]}},
        }
        self._written = Written(folder / "daemon", gateways={}, clusters={})
        self.configure()
        self.daemon = Daemon(load(self._written.config), config_path=self._written.config)
        self.renewal = Renewal(self.daemon, asyncio.Lock())

    def configure(
        self,
        *,
        revoked: list[str] | None = None,
        settings: dict[str, object] | None = None,
        **more: object,
    ) -> None:
        server: dict[str, object] = {
            "revoked_keys": revoked or [],
            "listen": f"127.0.0.1:{self.port}",
            "host_keys": [str(self.host_key)],
            "sources": [{"networks": ["127.0.0.0/8"]}],
            **(settings or {}),
        }
        sections = {"ssh_server": server, **self.sections, **more}
        given = {name: section for name, section in sections.items() if section is not None}
        self._written.configure(gateways={}, clusters={}, sections=given)

    def let_in(self, name: str, *keys: Path) -> None:
        """Replace the file of `name` with other keys, atomically."""
        new = self.folder / "new"
        new.write_text("".join(f"{ssh_keys.public(key)}\n" for key in keys))
        new.chmod(0o644)
        new.replace(self.keys[name])

    async def login(self, key: Path, *, host_key: Path | None = None) -> asyncssh.SSHClientConnection:
        known = f"[127.0.0.1]:{self.port} {ssh_keys.public(host_key or self.host_key)}\n".encode()
        async with asyncio.timeout(60):
            return await asyncssh.connect(
                "127.0.0.1",
                self.port,
                username="somebody",
                client_keys=[str(key)],
                known_hosts=known,
                agent_path=None,
                config=None,
            )

    async def lets_in(self, key: Path) -> bool:
        try:
            conn = await self.login(key)
        except asyncssh.PermissionDenied:
            return False
        await closed(conn)
        return True

    async def shows(self, host_key: Path) -> bool:
        try:
            await closed(await self.login(self.ops, host_key=host_key))
        except asyncssh.HostKeyNotVerifiable:
            return False
        return True

    async def until(self, key: Path, *, is_let_in: bool) -> None:
        async with asyncio.timeout(60):
            while await self.lets_in(key) != is_let_in:
                await asyncio.sleep(0.01)

    async def until_counted(self, reason: Reason) -> None:
        """Wait until one login was refused for this reason: the server counts it when the connection ends."""
        async with asyncio.timeout(60):
            while not self.daemon.metrics.logins.results[reason]:
                await asyncio.sleep(0.01)
        assert self.daemon.metrics.logins.results[reason] == 1

    async def renewed(self) -> bool:
        return any([await self.renewal.renew_changed() for _ in range(3)])


async def closed(conn: asyncssh.SSHClientConnection) -> None:
    conn.abort()
    await conn.wait_closed()


@asynccontextmanager
async def bed(tmp_path: Path) -> AsyncIterator[Bed]:
    one = Bed(tmp_path / "bed")
    await one.daemon.start(Controller(one.daemon))
    try:
        await one.renewed()
        yield one
    finally:
        await one.daemon.stop(timeout=0)


async def test_a_key_that_a_reload_removes_ends_its_connection(tmp_path: Path) -> None:
    async with bed(tmp_path) as one:
        stays, goes = await one.login(one.ops), await one.login(one.edge)
        one.configure(sites={})
        result = await reload(one.daemon)
        assert result.removed == ("site edge",)
        async with asyncio.timeout(30):
            await goes.wait_closed()
        assert not await one.lets_in(one.edge)
        assert not stays.is_closed()
        await closed(stays)
        await one.until_counted(Reason.UNKNOWN_KEY)


async def test_a_reload_ends_penalties(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(penalties, "REFUSED_S", 100.0)  # one failure is enough
    async with bed(tmp_path) as one:
        one.configure(settings={"sources": []})
        await reload(one.daemon)
        assert not await one.lets_in(one.other)
        await one.until_counted(Reason.UNKNOWN_KEY)
        with pytest.raises((asyncssh.ConnectionLost, ConnectionError)):
            await one.lets_in(one.ops)
        with capture_logs() as logs:
            await reload(one.daemon)
        again = [log for log in logs if log["event"] == "sources may log in again"]
        assert [log["sources"] for log in again] == [1]
        assert await one.lets_in(one.ops)


async def test_a_refused_reload_keeps_the_configuration_and_reads_the_keys(tmp_path: Path) -> None:
    async with bed(tmp_path) as one:
        one.configure(sites={})
        one.keys["ops"].write_text("# no key\n")
        one.let_in("edge", one.other)
        with pytest.raises(ConfigError):
            await reload(one.daemon)
        await one.until(one.other, is_let_in=True)
        assert not await one.lets_in(one.edge)
        assert not await one.lets_in(one.ops)


async def test_changed_key_files_take_effect_without_a_reload(tmp_path: Path) -> None:
    async with bed(tmp_path) as one:
        goes = await one.login(one.ops)
        one.let_in("ops", one.other)
        assert await one.renewed()
        await one.until(one.other, is_let_in=True)
        async with asyncio.timeout(60):
            await goes.wait_closed()
        assert not await one.lets_in(one.ops)
        assert await one.lets_in(one.edge)


async def test_keys_of_a_missing_file_are_refused(tmp_path: Path) -> None:
    """Keys of a file that other users may write to are refused, too."""
    async with bed(tmp_path) as one:
        one.keys["ops"].unlink()
        one.keys["edge"].chmod(0o666)
        with capture_logs() as logs:
            assert await one.renewed()
            await one.until(one.ops, is_let_in=False)
            await one.until(one.edge, is_let_in=False)
        told = {str(line["key"]) for line in logs if line["event"] == "key lets nobody in"}
        assert told == {"users.ops.authorized_keys[0]", "sites.edge.authorized_keys[0]"}
        one.keys["edge"].chmod(0o644)
        assert await one.renewed()
        await one.until(one.edge, is_let_in=True)


async def test_a_bad_line_does_not_affect_others(tmp_path: Path) -> None:
    async with bed(tmp_path) as one:
        one.keys["ops"].write_text(
            f'command="true" {ssh_keys.public(one.other)}\n{ssh_keys.public(one.ops)}\n'
        )
        assert await one.renewed()
        await one.until(one.ops, is_let_in=True)
        assert not await one.lets_in(one.other)
        await one.until_counted(Reason.KEY_OPTION)
        result = await reload(one.daemon)
        assert not result.warnings or "command" in result.warnings[0]


async def test_a_key_that_is_revoked_ends_its_connection(tmp_path: Path) -> None:
    """The key stays revoked when the file can no longer be read."""
    async with bed(tmp_path) as one:
        revoked = one.folder / "revoked"
        revoked.write_text("# none\n")
        one.configure(revoked=[str(revoked)])
        await reload(one.daemon)
        await one.renewed()
        goes, stays = await one.login(one.ops), await one.login(one.edge)
        revoked.write_text(f"{ssh_keys.public(one.ops)}\n")
        assert await one.renewed()
        async with asyncio.timeout(60):
            await goes.wait_closed()
        revoked.write_text("nonsense\n")
        assert await one.renewed()
        assert not await one.lets_in(one.ops)
        assert await one.lets_in(one.edge)
        assert not stays.is_closed()
        await closed(stays)


async def test_another_host_key_is_shown_to_new_clients(tmp_path: Path) -> None:
    async with bed(tmp_path) as one:
        before = await one.login(one.ops)
        new = ssh_keys.new_key(one.folder / "new_host")
        new.replace(one.host_key)
        assert await one.renewed()
        async with asyncio.timeout(60):
            while not await one.shows(new):
                await asyncio.sleep(0.01)
        assert not before.is_closed()
        one.host_key.write_bytes(b"nonsense")
        assert await one.renewed()
        assert await one.shows(new)
        await closed(before)


async def test_a_changed_address_cuts_no_connection(tmp_path: Path) -> None:
    async with bed(tmp_path) as one:
        before = await one.login(one.ops)
        was, one.port = one.port, free_port()
        one.configure()
        result = await reload(one.daemon)
        assert result.changed == ("ssh_server",)
        assert await one.lets_in(one.ops)
        assert not before.is_closed()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", was)
        await closed(before)


@pytest.mark.parametrize(
    "settings",
    [{"max_startups": 7}, {"per_source_max_startups": 3}, {"login_timeout": "9s"}, {"sources": []}],
    ids=str,
)
async def test_changed_settings_cut_no_connection(tmp_path: Path, settings: dict[str, object]) -> None:
    async with bed(tmp_path) as one:
        before = await one.login(one.ops)
        one.configure(settings=settings)
        assert (await reload(one.daemon)).changed == ("ssh_server",)
        assert await one.lets_in(one.edge)
        assert not before.is_closed()
        await closed(before)


async def test_a_reload_removes_and_adds_the_server(tmp_path: Path) -> None:
    async with bed(tmp_path) as one:
        before = await one.login(one.ops)
        one.configure(ssh_server=None, users=None, sites=None)
        result = await reload(one.daemon)
        assert result.removed == ("site edge", "user ops", "ssh_server")
        async with asyncio.timeout(30):
            await before.wait_closed()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", one.port)
        one.configure()
        assert (await reload(one.daemon)).added == ("site edge", "user ops", "ssh_server")
        assert await one.lets_in(one.ops)


async def test_host_keys_can_become_readable_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the file cannot be read at the start, connections are closed until it can."""
    monkeypatch.setattr(served_ssh, "RETRY_S", 0.05)
    one = Bed(tmp_path / "bed")
    aside = one.host_key.rename(one.folder / "aside")
    await one.daemon.start(Controller(one.daemon))
    try:
        with pytest.raises((OSError, asyncssh.Error)):
            await one.login(one.ops)
        assert one.daemon.metrics.logins.results[Reason.CREDENTIALS_UNUSABLE] == 1
        os.replace(aside, one.host_key)  # noqa: PTH105 - back
        async with asyncio.timeout(60):
            while not one.daemon.graph.ssh.server.is_usable:
                await asyncio.sleep(0.01)
        assert await one.lets_in(one.ops)
    finally:
        await one.daemon.stop(timeout=0)


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Every descriptor that this process may open is in use."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        with suppress(OSError):
            while True:
                stack.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        yield


async def test_keys_stay_if_their_files_cannot_be_read_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine without descriptors, or with a broken disk, does not say that a key was removed."""
    monkeypatch.setattr(served_ssh, "RETRY_S", 0.05)
    async with bed(tmp_path) as one, asyncio.timeout(60):
        conns = [await one.login(key) for key in (one.ops, one.edge)]
        one.let_in("ops", one.ops, one.other)
        with capture_logs() as logs, no_descriptor_left():

            def unread() -> dict[str, str]:
                told = [log for log in logs if log["event"] == "file cannot be used" and "key" in log]
                return {log["key"]: log["message"] for log in told}

            with pytest.raises(ConfigError):
                await reload(one.daemon)
            while len(unread()) < 2:
                await asyncio.sleep(0.01)
        assert unread().keys() == {"sites.edge.authorized_keys[0]", "users.ops.authorized_keys[0]"}
        assert all("Too many open files" in message for message in unread().values())
        assert not any(conn.is_closed() for conn in conns)
        await one.until(one.other, is_let_in=True)  # it was read again
        for conn in conns:
            await closed(conn)


async def test_key_files_are_read_while_a_reload_changes_another_sites_settings(tmp_path: Path) -> None:
    """Files of keys that have changed may be read while a reload changes another site's settings."""
    async with bed(tmp_path) as one:
        conn = await one.login(one.edge)
        ssh, config = one.daemon.graph.ssh, one.daemon.graph.config
        edge = config.sites["edge"].model_copy(update={"max_forwards": 7})
        ssh._config = config.model_copy(update={"sites": {"edge": edge}})
        await ssh._read_keys({("users", "ops")})
        assert not conn.is_closed()
        assert await one.lets_in(one.edge)
        await closed(conn)
