"""SIGTERM, step by step: not ready, no new clients, time for the present ones, half-close, reset. A second
SIGTERM stops at once.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from tests.integration.conftest import cluster, gateway
from tests.support.daemon import Daemon
from tests.support.echo import Echo
from tests.support.patient import HALF_CLOSES
from tests.support.ports import free_port
from tests.support.serving import Server
from tests.support.sshd import Sshd


class Listening(Server):
    """Sends nothing, and closes its side when the client has closed its own."""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.write(b"bye")
        writer.write_eof()


def daemon_for(
    folder: Path, server: Server, *, drain: str, wrapper: tuple[str, ...] = ()
) -> tuple[Daemon, tuple[str, int]]:
    port = free_port()
    clusters = {"one": cluster(port, server.endpoint, via="direct", probe={"interval": "10m"})}
    sections = {"limits": {"drain_timeout": drain}}
    daemon = Daemon(folder, gateways={}, clusters=clusters, sections=sections, wrapper=wrapper)
    return daemon, ("127.0.0.1", port)


def exit_code(daemon: Daemon, *, seconds: float = 60.0) -> int:
    assert daemon._process
    return daemon._process.wait(seconds)


def relayed(daemon: Daemon, mapped: tuple[str, int]) -> socket.socket:
    client = socket.create_connection(mapped, timeout=60)
    client.sendall(b"ping")
    daemon.wait_for(
        "the client is relayed", lambda: daemon.metric("kubemux_bytes_total", direction="to_cluster") >= 4
    )
    return client


async def test_a_drain_lets_clients_finish(tmp_path: Path) -> None:
    def run(echo: Echo) -> None:
        daemon, mapped = daemon_for(tmp_path, echo, drain="20s")
        with daemon:
            with relayed(daemon, mapped) as client:
                assert client.recv(4, socket.MSG_WAITALL) == b"ping"
                daemon.signal(signal.SIGTERM)
                daemon.wait_notified("STOPPING=1")
                assert "EXTEND_TIMEOUT_USEC=35000000" in daemon.notified, (
                    "the stop takes drain_timeout and the time to close"
                )
                assert daemon.get("/readyz")[0] == 503
                assert daemon.get("/healthz")[0] == 200
                with pytest.raises(ConnectionRefusedError):
                    socket.create_connection(mapped)
                client.sendall(b"more")
                assert client.recv(4, socket.MSG_WAITALL) == b"more"
            assert exit_code(daemon) == 0
            daemon.assert_log_clean()
            daemon.kill()
        assert [entry["reason"] for entry in daemon.events("connection closed")] == ["client_closed"]

    async with Echo() as echo:
        await asyncio.to_thread(run, echo)


async def test_remaining_connections_are_half_closed_before_the_reset(tmp_path: Path) -> None:
    """A server that sees the half-close may still send, and then closes its side. All of it reaches the
    client, and there is no reset.
    """

    def run(server: Listening) -> None:
        daemon, mapped = daemon_for(tmp_path, server, drain="100ms", wrapper=HALF_CLOSES)
        with daemon, relayed(daemon, mapped) as client:
            daemon.signal(signal.SIGTERM)
            assert client.makefile("rb").read() == b"bye"
            assert exit_code(daemon) == 0
            daemon.kill()
        assert [entry["reason"] for entry in daemon.events("connection closed")] == ["shutdown"]

    async with Listening() as server:
        await asyncio.to_thread(run, server)


async def test_a_second_signal_is_immediate(tmp_path: Path) -> None:
    def run(echo: Echo) -> None:
        daemon, mapped = daemon_for(tmp_path, echo, drain="10m")
        with daemon, relayed(daemon, mapped) as client:
            assert client.recv(4, socket.MSG_WAITALL) == b"ping"
            daemon.signal(signal.SIGTERM)
            daemon.wait_notified("STOPPING=1")
            daemon.signal(signal.SIGINT)
            assert exit_code(daemon) == 0
            with pytest.raises(ConnectionResetError):
                client.recv(1)
            daemon.kill()
        assert daemon.events("stopping at once")

    async with Echo() as echo:
        await asyncio.to_thread(run, echo)


LIMITS: Final = {"limits": {"drain_timeout": "10m", "hold_timeout": "1m"}}
"""A client comes before the link is up."""


def without_the_rest(daemon: Daemon) -> None:
    """Reload a file without any cluster or gateway."""
    daemon.configure(gateways={}, clusters={}, sections=LIMITS)
    daemon.signal(signal.SIGHUP)
    daemon.wait_for("it is taken", lambda: bool(daemon.events("reloaded")))


@pytest.mark.sshd
async def test_a_removed_cluster_may_end_by_itself(sshd: Sshd, tmp_path: Path) -> None:
    def run(echo: Echo) -> None:
        port = free_port()
        clusters = {"one": cluster(port, echo.endpoint, probe={"interval": "10m"})}
        gateways = {"edge": gateway(sshd)}
        with Daemon(tmp_path / "daemon", gateways=gateways, clusters=clusters, sections=LIMITS) as daemon:
            with relayed(daemon, ("127.0.0.1", port)) as client:
                assert client.recv(4, socket.MSG_WAITALL) == b"ping"
                without_the_rest(daemon)
                daemon.signal(signal.SIGTERM)
                daemon.wait_notified("STOPPING=1")
                client.sendall(b"more")
                assert client.recv(4, socket.MSG_WAITALL) == b"more"
            assert exit_code(daemon) == 0
            daemon.assert_log_clean()
            daemon.kill()
        assert [entry["reason"] for entry in daemon.events("connection closed")] == ["client_closed"]
        assert {entry["reason"] for entry in daemon.events("link closed")} == {"closed"}

    async with Echo() as echo:
        await asyncio.to_thread(run, echo)


@pytest.mark.sshd
async def test_a_second_signal_ends_removed_clusters_that_drain(sshd: Sshd, tmp_path: Path) -> None:
    def run(echo: Echo) -> None:
        port = free_port()
        clusters = {"one": cluster(port, echo.endpoint, probe={"interval": "10m"})}
        gateways = {"edge": gateway(sshd)}
        daemon = Daemon(tmp_path / "daemon", gateways=gateways, clusters=clusters, sections=LIMITS)
        with daemon, relayed(daemon, ("127.0.0.1", port)) as client:
            assert client.recv(4, socket.MSG_WAITALL) == b"ping"
            without_the_rest(daemon)
            daemon.signal(signal.SIGTERM)
            daemon.wait_notified("STOPPING=1")
            daemon.signal(signal.SIGINT)
            with pytest.raises(ConnectionResetError):
                client.recv(1)
            assert exit_code(daemon) == 0
            daemon.assert_log_clean()
            daemon.kill()
        assert len(daemon.events("connection closed")) == 1

    async with Echo() as echo:
        await asyncio.to_thread(run, echo)


async def test_repeated_signals_do_not_change_the_exit_code_of_a_stop(tmp_path: Path) -> None:
    """Signals come at every moment from the begin of the stop to the end of the process. The process exits
    with 0, and is not killed by a signal.
    """

    def run(echo: Echo) -> None:
        for number in range(3):
            daemon, mapped = daemon_for(tmp_path / str(number), echo, drain="0s")
            with daemon, relayed(daemon, mapped):
                assert daemon._process
                while daemon._process.poll() is None:
                    daemon.signal(signal.SIGTERM)
                    daemon.signal(signal.SIGHUP)
                    with suppress(subprocess.TimeoutExpired):
                        daemon._process.wait(0.001)
                assert daemon._process.returncode == 0
                daemon.kill()
            daemon.assert_log_clean()
            assert daemon.events("stopped")

    async with Echo() as echo:
        await asyncio.to_thread(run, echo)
