"""Limits of a cluster and of the daemon: connections, idle time, memory, descriptors."""

from __future__ import annotations

import asyncio
import resource
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.conftest import cluster, gateway
from tests.integration.running import running
from tests.support.daemon import Daemon
from tests.support.echo import Echo
from tests.support.ports import free_port
from tests.support.sshd import Sshd

QUIET = {"interval": "10m"}


def connect(stack: ExitStack, port: int) -> socket.socket:
    """A client that is connected and got an answer."""
    client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
    client.sendall(b"ping")
    assert client.recv(4, socket.MSG_WAITALL) == b"ping"
    return client


async def test_each_cluster_has_its_own_limit_of_connections(tmp_path: Path) -> None:
    def run(daemon: Daemon, narrow: int, wide: int) -> None:
        with ExitStack() as stack:
            first, _ = connect(stack, narrow), connect(stack, narrow)
            with pytest.raises(ConnectionResetError):
                connect(stack, narrow)
            for _ in range(5):
                connect(stack, wide)
            first.close()
            daemon.wait_for(
                "room", lambda: daemon.metric("kubemux_connections_active", cluster="narrow") == 1
            )
            connect(stack, narrow)
            assert daemon.metric("kubemux_connections_total", cluster="narrow", result="cluster_limit") == 1
            (refused,) = daemon.events("connection refused")
            assert (refused["cluster"], refused["reason"]) == ("narrow", "cluster_limit")
            assert refused["hint"] == "clusters.narrow.max_connections is 2"

    narrow, wide = free_port(), free_port()
    async with Echo() as echo:
        clusters = {
            "narrow": cluster(narrow, echo.endpoint, via="direct", probe=QUIET, max_connections=2),
            "wide": cluster(wide, echo.endpoint, via="direct", probe=QUIET),
        }
        async with running(tmp_path, gateways={}, clusters=clusters) as daemon:
            await asyncio.to_thread(run, daemon, narrow, wide)


async def test_idle_timeout_ends_silent_connections_of_its_cluster(tmp_path: Path) -> None:
    """kubemux ends a client that never sends and one that has stopped sending. It keeps one that still sends,
    and all clients of another cluster.
    """

    def run(daemon: Daemon, brief: int, patient: int) -> None:
        with ExitStack() as stack:
            watch = connect(stack, patient)
            busy = connect(stack, brief)
            mute = stack.enter_context(socket.create_connection(("127.0.0.1", brief), timeout=60))
            done = connect(stack, brief)
            left = {mute, done}
            busy.settimeout(60)
            while left:
                busy.sendall(b"ping")
                assert busy.recv(4, socket.MSG_WAITALL) == b"ping"
                for client in tuple(left):
                    client.settimeout(0.05)
                    try:
                        raise AssertionError(f"not a reset but {client.recv(1)!r}")
                    except ConnectionResetError:
                        left.remove(client)
                    except TimeoutError:
                        pass
            assert daemon.metric("kubemux_connections_total", cluster="brief", result="idle") == 2
            watch.sendall(b"ping")
            assert watch.recv(4, socket.MSG_WAITALL) == b"ping"

    brief, patient = free_port(), free_port()
    async with Echo() as echo:
        clusters = {
            "brief": cluster(brief, echo.endpoint, via="direct", probe=QUIET, idle_timeout="5s"),
            "patient": cluster(patient, echo.endpoint, via="direct", probe=QUIET),
        }
        async with running(tmp_path, gateways={}, clusters=clusters) as daemon:
            await asyncio.to_thread(run, daemon, brief, patient)


@pytest.mark.sshd
async def test_without_free_descriptors_clients_wait_and_the_rest_works(sshd: Sshd, tmp_path: Path) -> None:
    """Clients wait in the backlog. Links and the admin address use the descriptors that are reserved for
    them.
    """

    def run(daemon: Daemon, port: int) -> None:
        daemon.wait_for("links", lambda: daemon.metric("kubemux_gateway_links") == 2)
        with ExitStack() as stack:
            connect(stack, port)
            used = len(list(Path(f"/proc/{daemon.pid}/fd").iterdir()))
            _, hard = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
            # Half of the descriptors are reserved.
            resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (2 * (used + 3), hard))
            late = [
                stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
                for _ in range(40)
            ]
            for client in late:
                client.sendall(b"ping")
            daemon.wait_for("it says so", lambda: bool(daemon.events("accepting paused")))
            assert daemon.metric("kubemux_connections_active") < 10

            # A lost link ends its clients. A new link is dialled, and clients from the backlog come in.
            sshd.restart()
            daemon.wait_for("links again", lambda: daemon.metric("kubemux_gateway_reconnects_total") >= 2)
            assert daemon.get("/readyz")[0] == 200

            resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (hard, hard))
            daemon.wait_for("it goes on", lambda: daemon.metric("kubemux_channel_open_seconds_count") == 41)
            assert daemon.events("accepting again")

    port = free_port()
    async with Echo() as echo:
        clusters = {"one": cluster(port, echo.endpoint, probe=QUIET)}
        async with running(
            tmp_path / "daemon", gateways={"edge": gateway(sshd)}, clusters=clusters
        ) as daemon:
            await asyncio.to_thread(run, daemon, port)
