"""Many gateways, clusters and clients in one process."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.integration.conftest import cluster, gateway
from tests.integration.running import PROBE, ask, connect, get, peers, running, told, wait_up
from tests.support.https import Https
from tests.support.ports import free_port
from tests.support.serving import closed
from tests.support.sshd import SshdFactory
from tests.support.tls import Certificates

pytestmark = pytest.mark.sshd

PATIENT = {**PROBE, "timeout": "60s"}


async def test_the_loss_of_a_gateway_takes_down_only_its_own_clusters(
    sshd_factory: SshdFactory, tmp_path: Path, certificates: Certificates
) -> None:
    """Each cluster has its own API server. The loss of one gateway takes down its own clusters, and no
    others.
    """
    left, right = sshd_factory(), sshd_factory()
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(Https(certificates)) for _ in range(5)]
        ports = [free_port() for _ in servers]
        via = ["left", "left", "left", "right", "right"]
        clusters = {
            f"c{n}": cluster(ports[n], servers[n].endpoint, via=via[n], ca=certificates.ca, probe=PATIENT)
            for n in range(5)
        }
        gateways = {"left": gateway(left), "right": gateway(right)}
        async with running(tmp_path / "daemon", gateways=gateways, clusters=clusters) as daemon:
            await wait_up(daemon, *clusters)
            for n, server in enumerate(servers):
                before = len(server.requests)
                assert await get(ports[n], certificates) == 200
                assert len(server.requests) > before
            links = sorted([left.port] * 2 + [right.port] * 2)
            await asyncio.to_thread(daemon.wait_for, "two links each", lambda: peers(daemon.pid) == links)
            await asyncio.to_thread(right.stop)
            await wait_up(daemon, "c3", "c4", up=False)
            assert [await get(port, certificates) for port in ports[:3]] == [200] * 3
            assert [daemon.metric("kubemux_cluster_up", cluster=f"c{n}") for n in range(3)] == [1] * 3
            await asyncio.to_thread(right.start)
            await wait_up(daemon, *clusters)


async def test_ten_gateways_behind_one_strict_sshd_come_up(
    sshd_factory: SshdFactory, tmp_path: Path, certificates: Certificates
) -> None:
    """sshd drops handshakes when more than three run. All gateways come up in the end, and the log says why
    some took longer.
    """
    sshd = sshd_factory(config={"MaxStartups": "3:100:3"})
    names = [f"g{n}" for n in range(10)]
    async with Https(certificates) as server:
        port = free_port()
        clusters = {"prod": cluster(port, server.endpoint, via="g0", ca=certificates.ca, probe=PROBE)}
        gateways = {name: gateway(sshd, connect_timeout="60s") for name in names}
        async with running(tmp_path / "daemon", gateways=gateways, clusters=clusters) as daemon:
            await asyncio.to_thread(
                daemon.wait_for,
                "all ten up",
                lambda: {told(daemon)[name]["state"] for name in names} == {"up"},
                seconds=120,
            )
            assert daemon.metric("kubemux_gateway_links") == 20
            for failed in daemon.events("gateway dial failed"):
                assert failed["reason"] == "handshake_failed"
                assert "MaxStartups" in str(failed["hint"])
            await wait_up(daemon, "prod")


async def test_two_hundred_clients_that_come_and_go_leave_nothing_behind(
    sshd_factory: SshdFactory, tmp_path: Path, certificates: Certificates
) -> None:
    """A third of the clients leave before they are served, a third during the answer, a third after it. The
    daemon keeps nothing of them.
    """
    sshd = sshd_factory()
    async with Https(certificates) as server:
        port = free_port()
        once = {**PATIENT, "interval": "1h", "threshold": 1}
        clusters = {"prod": cluster(port, server.endpoint, ca=certificates.ca, probe=once)}
        gateways = {"edge": gateway(sshd, connect_timeout="60s")}
        async with running(tmp_path / "daemon", gateways=gateways, clusters=clusters) as daemon:
            await wait_up(daemon, "prod")

            async def client(number: int) -> int | None:
                if number % 3 == 0:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    await closed(writer)
                    return None
                reader, writer = await connect(port, certificates)
                try:
                    return await ask(reader, writer) if number % 3 == 1 else None
                finally:
                    await closed(writer)

            served = await asyncio.gather(*(client(number) for number in range(200)))
            assert {status for number, status in enumerate(served) if number % 3 == 1} == {200}

            def is_clean() -> bool:
                status = json.loads(daemon.get("/status")[1])
                channels = [link["channels"] for edge in status["gateways"] for link in edge["links"]]
                return (
                    channels == [0, 0]
                    and status["daemon"]["buffered_bytes"] == 0
                    and status["daemon"]["connections"] == 0
                    and daemon.metric("kubemux_connections_total", cluster="prod") == 200
                )

            await asyncio.to_thread(daemon.wait_for, "nothing left", is_clean)
            async with asyncio.timeout(60):
                while server.connections:  # sshd has closed its connection to the target, too
                    await asyncio.sleep(0.01)
            assert daemon.metric("kubemux_connections_active", cluster="prod") == 0
