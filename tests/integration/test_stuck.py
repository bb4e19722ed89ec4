"""Connections on which no byte moves: the daemon still stops, drains, reloads, and drops clients that have
left.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from proxy.relay.socket_relay import LINGER_ZERO
from proxy.runtime.endpoint import Endpoint
from tests.integration.conftest import cluster, gateway
from tests.integration.test_life import kubemux
from tests.support.daemon import Daemon
from tests.support.ports import free_port
from tests.support.serving import Server
from tests.support.sshd import Sshd

pytestmark = pytest.mark.sshd


class Deaf(Server):
    """Accepts connections and never reads."""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.Event().wait()


class Greeter(Server):
    """Sends first, and closes its side."""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello " * 1000)
        writer.write_eof()
        await reader.read()


@pytest.fixture
async def deaf() -> AsyncIterator[Deaf]:
    async with Deaf() as server:
        yield server


def daemon_for(
    sshd: Sshd, folder: Path, *servers: Endpoint, via: str = "edge", drain: str = "200ms"
) -> tuple[Daemon, list[Endpoint]]:
    """A daemon with a cluster for each server. Yields it and the mapped ports."""
    ports = [free_port() for _ in servers]
    clusters = {
        f"c{n}": cluster(port, server, via=via, probe={"interval": "10m"})
        for n, (port, server) in enumerate(zip(ports, servers, strict=True))
    }
    # Clients come before the link is up.
    sections: dict[str, object] = {"limits": {"drain_timeout": drain, "hold_timeout": "1m"}}
    daemon = Daemon(
        folder / "daemon", gateways={"edge": gateway(sshd)}, clusters=dict(clusters), sections=sections
    )
    return daemon, [Endpoint("127.0.0.1", port) for port in ports]


def stuck_upload(mapped: Endpoint, daemon: Daemon) -> socket.socket:
    """A client that fills every buffer on the way to a server that does not read."""
    client = socket.create_connection(mapped)
    client.setblocking(False)
    daemon.wait_for(
        "the client is relayed",
        lambda: daemon.metric("kubemux_channel_open_seconds_count", cluster="c0") >= 1,
    )

    def is_stuck() -> bool:
        try:
            while client.send(bytes(1 << 20)):
                pass
        except BlockingIOError:
            pass
        return daemon.metric("kubemux_paused_relays") == 1

    daemon.wait_for("the upload is stuck", is_stuck)
    return client


async def test_stop_and_drain_do_not_wait_for_a_server_that_reads_nothing(
    sshd: Sshd, deaf: Deaf, tmp_path: Path
) -> None:
    def run() -> None:
        daemon, (mapped,) = daemon_for(sshd, tmp_path, deaf.endpoint)
        with daemon:
            with stuck_upload(mapped, daemon):
                kubemux("drain", "c0", "--config", daemon.config)
            assert daemon.metric("kubemux_connections_active") == 0
            kubemux("reload", "--config", daemon.config)
            client = stuck_upload(mapped, daemon)
            # The end of the block stops the daemon, and fails if that takes too long.
        client.close()

    await asyncio.to_thread(run)


async def test_a_client_that_reset_is_dropped_although_no_byte_moves(
    sshd: Sshd, deaf: Deaf, tmp_path: Path
) -> None:
    def run() -> None:
        daemon, (mapped,) = daemon_for(sshd, tmp_path, deaf.endpoint)
        with daemon:
            client = stuck_upload(mapped, daemon)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
            client.close()
            daemon.wait_for("its slot is free", lambda: daemon.metric("kubemux_connections_active") == 0)
            assert daemon.metric("kubemux_connections_total", result="client_reset") == 1
            # The client is gone although sshd still has the channel. The first probe, which nobody answers
            # either, has a window until it gives up.
            daemon.wait_for("its memory is free", lambda: daemon.metric("kubemux_buffered_bytes") == 0)

    await asyncio.to_thread(run)


async def test_unanswered_probes_leave_nothing_behind(sshd: Sshd, deaf: Deaf, tmp_path: Path) -> None:
    def run() -> None:
        section = cluster(free_port(), deaf.endpoint, probe={"interval": "50ms", "timeout": "100ms"})
        with Daemon(
            tmp_path / "daemon", gateways={"edge": gateway(sshd)}, clusters={"c0": section}
        ) as daemon:

            def channels() -> int:
                (edge,) = json.loads(daemon.get("/status")[1])["gateways"]
                return sum(link["channels"] for link in edge["links"])

            probes = partial(daemon.metric, "kubemux_probes_total", result="timeout")
            daemon.wait_for("some probes", lambda: probes() >= 10)
            daemon.wait_for("no more than one of them at a time", lambda: channels() <= 1)

    await asyncio.to_thread(run)


async def test_all_bytes_of_a_server_that_sends_first_arrive(sshd: Sshd, tmp_path: Path) -> None:
    def run(server: Endpoint) -> None:
        for via in ("direct", "edge"):
            daemon, (mapped,) = daemon_for(sshd, tmp_path / via, server, via=via)
            with daemon:
                for _ in range(100):
                    with socket.create_connection(mapped) as client, client.makefile("rb") as stream:
                        assert stream.read() == b"hello " * 1000

    async with Greeter() as server:
        await asyncio.to_thread(run, server.endpoint)


async def test_a_reload_while_stopping_changes_nothing(sshd: Sshd, deaf: Deaf, tmp_path: Path) -> None:
    def run() -> None:
        daemon, (mapped,) = daemon_for(sshd, tmp_path, deaf.endpoint, drain="60s")
        with daemon, socket.create_connection(mapped):
            daemon.wait_for(
                "the client is relayed",
                lambda: daemon.metric("kubemux_connections_active", cluster="c0") == 1,
            )
            daemon.signal(signal.SIGTERM)
            daemon.wait_for("it stops", lambda: bool(daemon.events("stopping")))
            daemon.signal(signal.SIGHUP)
            answer = kubemux("reload", "--config", daemon.config, code=1)
            assert answer == ""
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(mapped)
            assert not daemon.events("reloaded")

    await asyncio.to_thread(run)


async def test_a_stop_while_clients_arrive_leaves_none_open(sshd: Sshd, tmp_path: Path) -> None:
    """SIGTERM while clients are being accepted: none of them is left open, and nothing hangs."""

    def run(server: Endpoint) -> None:
        for number in range(3):
            daemon, (mapped,) = daemon_for(sshd, tmp_path / str(number), server, drain="0s")
            with daemon:
                daemon.wait_for("a link", lambda daemon=daemon: daemon.metric("kubemux_gateway_links") >= 1)  # type: ignore[misc]
                clients = []
                for _ in range(80):
                    client = socket.socket()
                    client.setblocking(False)
                    client.connect_ex(mapped)
                    clients.append(client)
            for client in clients:
                client.close()

    async with Greeter() as server:
        await asyncio.to_thread(run, server.endpoint)
