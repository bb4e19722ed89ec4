"""Several API servers of one cluster: if one fails, the next serves the same client, and kubemux remembers
that.
"""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from proxy.runtime.endpoint import Endpoint
from tests.integration.conftest import cluster, gateway
from tests.integration.running import get, running, wait_for_log, wait_up
from tests.support.https import Https
from tests.support.ports import free_port
from tests.support.sshd import Sshd
from tests.support.tls import Certificates

pytestmark = pytest.mark.sshd

SELDOM = {"interval": "1h", "timeout": "10s", "threshold": 1}
"""One probe at the start; after that, only the test's own clients change the order of the servers."""


CLIENTS = "/version"
"""The path that clients request, to tell them from probes.

If the link comes up during the first probe, a second probe follows.
"""


def served(server: Https) -> int:
    """How many requests of clients this server got."""
    return sum(CLIENTS in line for line in server.requests)


async def test_a_refused_api_server_makes_the_next_one_serve_the_same_client(
    sshd: Sshd, tmp_path: Path, certificates: Certificates
) -> None:
    port = free_port()
    async with Https(certificates) as first, Https(certificates) as second:
        section = cluster(port, first.endpoint, second.endpoint, ca=certificates.ca, probe=SELDOM)
        async with running(
            tmp_path / "daemon", gateways={"edge": gateway(sshd)}, clusters={"prod": section}
        ) as daemon:
            await wait_up(daemon, "prod")
            assert (served(first), served(second)) == (0, 0)
            await first.refuse()
            assert await get(port, certificates, CLIENTS) == 200
            assert (served(first), served(second)) == (0, 1)
            moved = await wait_for_log(daemon, "next API server")
            assert (moved["failed"], moved["next"]) == (str(first.endpoint), str(second.endpoint))
            await first.listen()
            assert await get(port, certificates, CLIENTS) == 200
            assert (served(first), served(second)) == (0, 2), "the server that answered last is tried first"
            await second.refuse()
            assert await get(port, certificates, CLIENTS) == 200
            assert served(first) == 1
            await first.refuse()
            with pytest.raises(ConnectionResetError):
                await get(port, certificates, CLIENTS)
            closed = await wait_for_log(daemon, "connection closed", reason="channel_refused")
            assert "Connection refused" in str(closed["message"])
            assert daemon.metric("kubemux_connections_total", cluster="prod", result="channel_refused") == 1


async def test_a_blackholed_api_server_costs_its_time_once(
    sshd: Sshd, tmp_path: Path, certificates: Certificates
) -> None:
    """The first server has a full backlog, so its kernel drops SYN packets, as a firewall does."""
    port = free_port()
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as full,
        socket.socket() as one,
        socket.socket() as two,
    ):
        for sock in (one, two):
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
        silent = Endpoint("127.0.0.1", full.getsockname()[1])
        async with Https(certificates) as server:
            section = cluster(port, silent, server.endpoint, ca=certificates.ca, probe={"interval": "1h"})
            gateways = {"edge": gateway(sshd, connect_timeout="5s")}
            async with running(tmp_path / "daemon", gateways=gateways, clusters={"prod": section}) as daemon:
                await wait_for_log(daemon, "link up")
                for _ in range(2):
                    assert await get(port, certificates) == 200
                moved = [(one["failed"], one["next"]) for one in daemon.events("next API server")]
                assert moved == [(str(silent), str(server.endpoint))], "it is tried last from now on"
