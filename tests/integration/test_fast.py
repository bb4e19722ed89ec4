"""A link is lost: its clients are reset at once, the listener stays, and new clients (up to max_connections)
wait for the next link.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.conftest import cluster, gateway
from tests.support.daemon import Daemon
from tests.support.echo import Echo
from tests.support.ports import free_port
from tests.support.sshd import Sshd

pytestmark = pytest.mark.sshd

CLIENTS = 50


async def test_clients_are_reset_with_their_link_and_new_ones_wait(sshd: Sshd, tmp_path: Path) -> None:
    port = free_port()

    def connect(stack: ExitStack) -> socket.socket:
        client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
        client.sendall(b"ping")
        return client

    def run(daemon: Daemon) -> None:
        daemon.wait_for("links", lambda: daemon.metric("kubemux_gateway_links") == 2)
        with ExitStack() as stack:
            clients = [connect(stack) for _ in range(CLIENTS)]
            for client in clients:
                assert client.recv(4, socket.MSG_WAITALL) == b"ping"
            sshd.stop()
            for client in clients:
                with pytest.raises(ConnectionResetError):
                    client.recv(1)
            daemon.wait_for("their ends", lambda: len(daemon.events("connection closed")) == CLIENTS)
            assert {entry["reason"] for entry in daemon.events("connection closed")} == {"link_lost"}

            # The daemon holds max_connections clients, and refuses none of them.
            held = [connect(stack) for _ in range(CLIENTS)]
            daemon.wait_for("they wait", lambda: daemon.metric("kubemux_connections_active") == CLIENTS)
            with pytest.raises(ConnectionResetError):
                connect(stack).recv(1)
            assert daemon.metric("kubemux_connections_total", result="limit") == 1

            sshd.start()
            reconnect(daemon.socket, "edge")
            for client in held:
                assert client.recv(4, socket.MSG_WAITALL) == b"ping"
            count = daemon.metric("kubemux_channel_open_seconds_count", cluster="one")
            assert count == 2 * CLIENTS

    async with Echo() as echo:
        sections = {"limits": {"hold_timeout": "5m", "max_connections": CLIENTS, "drain_timeout": "0s"}}
        clusters = {"one": cluster(port, echo.endpoint, probe={"interval": "10m"})}
        daemon = Daemon(
            tmp_path / "daemon", gateways={"edge": gateway(sshd)}, clusters=clusters, sections=sections
        )

        def whole() -> None:
            with daemon:
                run(daemon)

        await asyncio.to_thread(whole)


def reconnect(admin: Path, name: str) -> None:
    """Send the request of `kubemux reconnect`: dial now, without the rest of the backoff."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(60)
        sock.connect(str(admin))
        sock.sendall(
            f"POST /-/reconnect?gateway={name} HTTP/1.1\r\nHost: kubemux\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        with sock.makefile("rb") as answer:
            assert answer.readline().split()[1] == b"200"
