"""Restarts while clients connect, with a manager that keeps descriptors as systemd does: no client is
refused.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.conftest import cluster, gateway
from tests.integration.test_life import kubemux
from tests.support.echo import Echo
from tests.support.ends import bad_ends
from tests.support.files import whole_lines
from tests.support.manager import Clients, Manager
from tests.support.ports import free_port
from tests.support.site import SshServerFiles
from tests.support.sshd import Sshd


def configure(folder: Path, clusters: dict[str, object], *, admin: int, **sections: object) -> Path:
    path = folder / "config.yaml"
    content = {
        "version": 1,
        "admin": {"listen": f"127.0.0.1:{admin}", "socket": str(folder / "admin.sock")},
        "limits": {"drain_timeout": "30s", "hold_timeout": "60s"},
        "clusters": clusters,
        **sections,
    }
    path.write_text(json.dumps(content))
    return path


def names(*ports: int, host: str = "127.0.0.1") -> set[str]:
    return {f"listen-{host}_{port}" for port in ports}


def errors(manager: Manager) -> list[str]:
    entries = [json.loads(line) for line in whole_lines(manager.log)]
    return [entry["event"] for entry in entries if entry["level"] == "error"]


@pytest.mark.sshd
async def test_clients_are_served_across_restarts(sshd: Sshd, tmp_path: Path) -> None:
    """A client that comes during a restart waits in the backlog, and then for the new process' first link."""

    def run(echo: Echo) -> None:
        through, straight, proxy, admin = (free_port() for _ in range(4))
        clusters: dict[str, object] = {
            "through": cluster(through, echo.endpoint, probe={"interval": "10m"}),
            "straight": cluster(straight, echo.endpoint, via="direct", probe={"interval": "10m"}),
        }
        files = SshServerFiles(tmp_path / "ssh")
        ports = (through, straight, proxy, admin, files.listen.port)
        config = configure(
            tmp_path,
            clusters,
            admin=admin,
            gateways={"edge": gateway(sshd)},
            entries={"proxy": {"listen": f"127.0.0.1:{proxy}"}},
            ssh_server=files.sections(),
            users={"ops": files.authorized("ops")},
        )
        with Manager(tmp_path, "-m", "proxy", "run", "--config", str(config)) as manager:
            manager.start()
            assert set(manager.store) == names(*ports)
            with ExitStack() as stack:
                clients = [
                    stack.enter_context(Clients(("127.0.0.1", port), asked=asked))
                    for port, asked in ((through, ""), (straight, ""), (proxy, "through:443"))
                ]
                for _ in range(3):
                    for one in clients:
                        one.wait_served(5)
                    manager.restart()
                for one in clients:
                    one.wait_served(5)
            assert [one.failed for one in clients] == [{}] * 3, bad_ends(manager.log)
            assert set(manager.store) == names(*ports)
            jump = files.command("ops", "-W", "straight:443")
            done = subprocess.run(jump, input=b"hello", capture_output=True, timeout=60, check=False)
            assert done.stdout == b"hello", done.stderr.decode()
        assert errors(manager) == []

    async with Echo() as echo:
        await asyncio.to_thread(run, echo)


async def test_an_address_that_is_given_up_is_not_kept(tmp_path: Path) -> None:
    """After a restart, a reload or a drain the address refuses connections, and others may bind it."""

    def run(echo: Echo) -> None:
        ports = {name: free_port() for name in ("kept", "restarted", "reloaded", "drained")}
        admin = free_port()
        clusters: dict[str, object] = {
            name: cluster(port, echo.endpoint, via="direct") for name, port in ports.items()
        }
        config = configure(tmp_path, clusters, admin=admin)
        with Manager(tmp_path, "-m", "proxy", "run", "--config", str(config)) as manager:
            manager.start()
            assert set(manager.store) == names(*ports.values(), admin)

            del clusters["restarted"]
            configure(tmp_path, clusters, admin=admin)
            manager.restart()
            del clusters["reloaded"]
            configure(tmp_path, clusters, admin=admin)
            ready = manager.said.count("READY=1")
            os.kill(manager.pid, signal.SIGHUP)
            manager.wait("reloaded", lambda: manager.said.count("READY=1") > ready)
            kubemux("drain", "drained", "--config", config)
            for name in ("restarted", "reloaded", "drained"):
                with pytest.raises(ConnectionRefusedError):
                    socket.create_connection(("127.0.0.1", ports[name]))
            manager.wait("it keeps no other", lambda: set(manager.store) == names(ports["kept"], admin))
        assert errors(manager) == []

    async with Echo() as echo:
        await asyncio.to_thread(run, echo)


async def test_an_address_that_widens_is_bound_at_once(tmp_path: Path) -> None:
    """127.0.0.1 and 0.0.0.0 cannot be bound at the same time, so a reload and a restart must close the kept
    socket first.
    """

    def run(echo: Echo) -> None:
        port, admin = free_port(), free_port()

        def listen(host: str) -> Path:
            section = cluster(port, echo.endpoint, via="direct", listen=f"{host}:{port}", allow_remote=True)
            return configure(tmp_path, {"one": section}, admin=admin)

        with Manager(tmp_path, "-m", "proxy", "run", "--config", str(listen("127.0.0.1"))) as manager:
            manager.start()
            listen("0.0.0.0")  # noqa: S104 - what the test is about
            kubemux("reload", "--config", tmp_path / "config.yaml")
            wide = names(port, host="0.0.0.0") | names(admin)  # noqa: S104
            manager.wait("it keeps the wide one", lambda: set(manager.store) == wide)
            listen("127.0.0.1")
            manager.restart()
            assert set(manager.store) == names(port, admin)
            with Clients(("127.0.0.1", port)) as clients:
                clients.wait_served(1)
        assert errors(manager) == []

    async with Echo() as echo:
        await asyncio.to_thread(run, echo)


async def test_a_cluster_that_is_renamed_keeps_its_socket(tmp_path: Path) -> None:
    def run(echo: Echo) -> None:
        port, admin = free_port(), free_port()
        section = cluster(port, echo.endpoint, via="direct")
        config = configure(tmp_path, {"old": section}, admin=admin)
        with Manager(tmp_path, "-m", "proxy", "run", "--config", str(config)) as manager:
            manager.start()
            with Clients(("127.0.0.1", port)) as clients:
                clients.wait_served(5)
                configure(tmp_path, {"new": section}, admin=admin)
                kubemux("reload", "--config", config)
                clients.wait_served(5)
            assert clients.failed == {}, bad_ends(manager.log)

    async with Echo() as echo:
        await asyncio.to_thread(run, echo)
