"""Clusters and entries that listen on unix sockets: who may connect, and when the socket files
are removed.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import stat
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from tests.integration.conftest import cluster, gateway
from tests.integration.running import running, wait_for_log
from tests.integration.test_life import kubemux
from tests.integration.test_restart import configure, errors
from tests.support.daemon import Daemon, Sections
from tests.support.echo import Echo
from tests.support.ends import bad_ends
from tests.support.manager import Clients, Manager
from tests.support.ports import free_port
from tests.support.sshd import Sshd

QUIET: Sections = {"interval": "10m"}


def at(path: Path, echo: Echo, **more: object) -> Sections:
    return cluster(0, echo.endpoint, **{"via": "direct", "listen": f"unix:{path}", "probe": QUIET, **more})  # type: ignore[arg-type]


def connected(path: Path) -> int:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path))


def mode(path: Path) -> str:
    return stat.filemode(path.lstat().st_mode)


def owned(path: Path, expected: tuple[str, int]) -> bool:
    return (mode(path), path.lstat().st_gid) == expected


async def echoed(path: Path, ask: bytes = b"") -> bytes:
    """Send `ask` and read its answer, if there is one; then send a few bytes, and return what comes back."""
    async with asyncio.timeout(30):
        reader, writer = await asyncio.open_unix_connection(path)
        try:
            if ask:
                writer.write(ask)
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            writer.write(b"ping")
            return await reader.readexactly(4)
        finally:
            writer.close()
            await writer.wait_closed()


def snapshot(daemon: Daemon, section: str) -> dict[str, object]:
    [one] = json.loads(daemon.get("/status")[1])[section]
    return dict(one)


async def test_a_cluster_and_an_entry_are_reached_by_unix_sockets_alone(tmp_path: Path) -> None:
    straight, proxy = tmp_path / "straight.sock", tmp_path / "proxy.sock"
    async with Echo() as echo:
        entry = {"listen": f"unix:{proxy}", "mode": "0666"}
        clusters: Sections = {"prod": at(straight, echo, allow=[f"uid:{os.getuid()}"])}
        async with running(
            tmp_path / "daemon", gateways={}, clusters=clusters, entries={"proxy": entry}
        ) as daemon:
            assert (mode(straight), mode(proxy)) == ("srw-------", "srw-rw-rw-")
            assert await echoed(straight) == b"ping"
            assert await echoed(proxy, b"CONNECT prod:443 HTTP/1.1\r\n\r\n") == b"ping"
            assert snapshot(daemon, "clusters")["listen"] == f"unix:{straight}"
            assert snapshot(daemon, "entries")["listen"] == f"unix:{proxy}"
            for entry_name in ("listener", "proxy"):
                line = await wait_for_log(daemon, "connection closed", entry=entry_name)
                assert (line["client"], line["caller"]) == ("unix", f"uid:{os.getuid()}")
            with pytest.raises(AssertionError, match="another process listens there"):
                async with running(tmp_path / "other", gateways={}, clusters=clusters):
                    pass
            assert await echoed(straight) == b"ping"
        # The files stay for the next process, because a service manager may keep the sockets.
        assert connected(straight) == connected(proxy) == errno.ECONNREFUSED


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to any group")
async def test_a_reload_changes_the_permissions_and_cuts_no_connection(tmp_path: Path) -> None:
    path, proxy = tmp_path / "prod.sock", tmp_path / "proxy.sock"
    async with Echo() as echo:

        def sections(**keys: object) -> tuple[Sections, Sections]:
            entries = {"proxy": {"listen": f"unix:{proxy}", **keys}}
            return {"prod": at(path, echo, **keys)}, {"entries": entries}

        clusters, more = sections()
        async with running(tmp_path / "daemon", gateways={}, clusters=clusters, **more) as daemon:
            reader, writer = await asyncio.open_unix_connection(path)
            for keys, expected in (
                ({"mode": "0660", "group": "4242"}, ("srw-rw----", 4242)),
                ({"mode": "0660"}, ("srw-rw----", os.getegid())),
                ({}, ("srw-------", os.getegid())),
            ):
                clusters, more = sections(**keys)
                daemon.configure(gateways={}, clusters=clusters, sections=more)
                await asyncio.to_thread(kubemux, "reload", "--config", daemon.config)
                for one in (path, proxy):
                    await asyncio.to_thread(
                        daemon.wait_for, f"{one} {expected}", partial(owned, one, expected)
                    )
                writer.write(b"ping")
                assert await reader.readexactly(4) == b"ping"
            writer.close()
            await writer.wait_closed()


async def test_clients_are_served_across_restarts(tmp_path: Path) -> None:
    """The file of a kept socket stays, with the same inode; the file of a removed cluster goes."""
    kept, proxy, gone, drained = (tmp_path / f"{name}.sock" for name in ("kept", "proxy", "gone", "drained"))

    def run(echo: Echo) -> None:
        admin = free_port()
        entries = {"proxy": {"listen": f"unix:{proxy}", "mode": "0660"}}
        clusters: dict[str, object] = {one.stem: at(one, echo, mode="0660") for one in (kept, gone, drained)}
        config = configure(tmp_path, clusters, admin=admin, entries=entries)
        with Manager(tmp_path, "-m", "proxy", "run", "--config", str(config)) as manager:
            manager.start()
            assert len(manager.store) == 5
            inodes = [one.lstat().st_ino for one in (kept, proxy)]
            with Clients(kept) as clients:
                for _ in range(3):
                    clients.wait_served(5)
                    manager.restart()
                clients.wait_served(5)
                assert clients.failed == {}, bad_ends(manager.log)
                assert [one.lstat().st_ino for one in (kept, proxy)] == inodes
                assert (mode(kept), mode(proxy), connected(proxy)) == ("srw-rw----", "srw-rw----", 0)
                kubemux("drain", "drained", "--config", config)
                assert connected(drained) == errno.ENOENT
                del clusters["gone"], clusters["drained"]
                configure(tmp_path, clusters, admin=admin, entries={})
                manager.restart()
                assert [connected(one) for one in (gone, proxy)] == [errno.ENOENT] * 2
                clients.wait_served(5)
            assert clients.failed == {}, bad_ends(manager.log)
            assert len(manager.store) == 2

            kept.unlink()  # as systemd does with the files in RuntimeDirectory= when a unit restarts
            manager.restart()
            assert connected(kept) == 0
            assert len(manager.store) == 2
        assert errors(manager) == []

    async with Echo() as echo:
        await asyncio.to_thread(run, echo)


@pytest.mark.sshd
async def test_a_client_that_cannot_be_served_is_refused_at_once(sshd: Sshd, tmp_path: Path) -> None:
    """The daemon itself refuses it: a unix socket that has stopped listening cannot listen again."""
    path = tmp_path / "lost.sock"
    async with Echo() as echo:
        lost = at(path, echo, via="gone")
        async with running(
            tmp_path / "daemon",
            gateways={"gone": gateway(sshd, port=free_port())},
            clusters={"lost": lost},
            limits={"hold_timeout": "100ms"},
        ) as daemon:
            for _ in range(3):
                async with asyncio.timeout(30):
                    reader, writer = await asyncio.open_unix_connection(path)
                    writer.write(b"hello")
                    with suppress(ConnectionResetError, BrokenPipeError):
                        assert await reader.read() == b""
                    writer.close()
            assert (await wait_for_log(daemon, "connection closed", reason="link_down"))["client"] == "unix"
            assert not daemon.events("clients are refused")
