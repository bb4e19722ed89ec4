"""A gateway whose machine has failed. kubemux notices by keepalive, or sooner if it has sent bytes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.runtime.endpoint import Endpoint
from tests.integration.conftest import cluster, gateway
from tests.support.daemon import Daemon
from tests.support.elsewhere import FarSshd
from tests.support.ports import free_port

pytestmark = [pytest.mark.sshd, pytest.mark.network]


@pytest.fixture
def far(tmp_path: Path) -> Iterator[FarSshd]:
    with FarSshd(tmp_path / "far") as sshd:
        yield sshd


async def test_a_pulled_cable_is_noticed_by_unacknowledged_data(far: FarSshd, tmp_path: Path) -> None:
    """TCP's own timeout comes before keepalive's. Clients are reset then, and need not wait for their own
    timeouts.
    """

    def run() -> None:
        port = free_port()
        # The far machine's sshd stands in for an API server: it sends its version line to each client.
        clusters = {"far": cluster(port, Endpoint(far.host, far.port), probe={"interval": "10m"})}
        edge = gateway(far, keepalive={"interval": "2s", "max_missed": 2}, connections=1)
        with Daemon(tmp_path / "daemon", gateways={"edge": edge}, clusters=clusters) as daemon:
            daemon.wait_for("a link", lambda: daemon.metric("kubemux_gateway_links") == 1)
            with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
                assert client.recv(4, socket.MSG_WAITALL) == b"SSH-"
                far.pull()
                client.sendall(b"is anybody there?")
                with client.makefile("rb") as rest, pytest.raises(ConnectionResetError):
                    rest.read()
            daemon.wait_for("the loss", lambda: bool(daemon.events("link lost")))
            (lost,) = daemon.events("link lost")
            assert lost["reason"] == "keepalive_timeout"
            assert lost["message"] == f"{far.host}:{far.port} stopped acknowledging what is sent"
            far.plug()
            daemon.wait_for("a link", lambda: daemon.metric("kubemux_gateway_links") == 1)
            with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
                assert client.recv(4, socket.MSG_WAITALL) == b"SSH-"

    await asyncio.to_thread(run)
