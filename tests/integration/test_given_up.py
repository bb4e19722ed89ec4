"""A gateway is down for longer than hold_timeout: clients are refused at once, and served as soon as it is
back.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path

import pytest

from proxy.runtime.endpoint import Endpoint
from tests.integration.conftest import cluster, gateway
from tests.integration.running import PROBE, get, running, wait_for_log, wait_up
from tests.support.daemon import Daemon
from tests.support.https import Https
from tests.support.ports import free_port
from tests.support.sshd import SshdFactory
from tests.support.tls import Certificates

pytestmark = pytest.mark.sshd

HOLD_S = 1.0


def told(daemon: Daemon) -> dict[str, dict[str, object]]:
    return {entry["name"]: entry for entry in json.loads(daemon.get("/status")[1])["clusters"]}


def kubectl(port: int) -> str:
    """Run kubectl on the cluster at `port`. Returns its errors."""
    done = subprocess.run(
        [
            "kubectl",
            "--token=x",
            f"--server=https://127.0.0.1:{port}",
            "--insecure-skip-tls-verify",
            "get",
            "ns",
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nowhere"},
    )
    assert done.returncode != 0
    return done.stderr


@pytest.mark.kubectl
async def test_clients_are_refused_until_the_gateway_is_back(
    sshd_factory: SshdFactory, tmp_path: Path, certificates: Certificates
) -> None:
    edge, far = sshd_factory(), sshd_factory()
    ports = {"one": free_port(), "two": free_port(), "far": free_port(), "near": free_port()}
    async with Https(certificates) as server:
        elsewhere = Endpoint("127.0.0.1", free_port())
        clusters = {
            "one": cluster(
                ports["one"], server.endpoint, ca=certificates.ca, probe={**PROBE, "threshold": 100}
            ),
            "two": cluster(ports["two"], elsewhere, server.endpoint, ca=certificates.ca, probe=PROBE),
            "far": cluster(ports["far"], server.endpoint, via="far", ca=certificates.ca, probe=PROBE),
            "near": cluster(ports["near"], server.endpoint, via="direct", ca=certificates.ca, probe=PROBE),
        }
        gateways = {"edge": gateway(edge, connections=1), "far": gateway(far, connections=1)}
        limits = {"hold_timeout": f"{HOLD_S}s"}
        async with running(
            tmp_path / "daemon", gateways=gateways, clusters=clusters, limits=limits
        ) as daemon:
            await wait_up(daemon, *clusters)
            await asyncio.to_thread(edge.stop)
            await wait_for_log(daemon, "link lost", gateway="edge")
            assert (told(daemon)["one"]["state"], told(daemon)["one"]["reason"]) == ("up", "link_down"), (
                "the status says so before the first probe"
            )
            assert "edge has no link" in str(told(daemon)["one"]["message"])
            for name in ("one", "two"):
                await wait_for_log(daemon, "clients are refused", cluster=name, gateway="edge")
                with pytest.raises(ConnectionRefusedError):
                    await get(ports[name], certificates)
            # After a refusal kubectl gives up at once. After a reset it tries for almost a minute.
            assert "was refused" in await asyncio.to_thread(kubectl, ports["one"])
            for name in ("far", "near"):
                assert await get(ports[name], certificates) == 200
                assert not [
                    entry for entry in daemon.events("clients are refused") if entry["cluster"] == name
                ]
            assert json.loads(daemon.get("/status")[1])["daemon"]["ready"], (
                "the daemon keeps the address bound"
            )
            assert daemon.metric("kubemux_cluster_listening", cluster="one") == 1
            await asyncio.to_thread(edge.start)
            for name in ("one", "two"):
                await wait_for_log(daemon, "clients are served again", cluster=name)
            for name in clusters:
                assert await get(ports[name], certificates) == 200


async def test_a_client_that_comes_before_hold_timeout_is_held(
    sshd_factory: SshdFactory, tmp_path: Path, certificates: Certificates
) -> None:
    """A client that comes before hold_timeout is served when the gateway is back."""
    edge, port = sshd_factory(), free_port()
    async with Https(certificates) as server:
        clusters = {"one": cluster(port, server.endpoint, ca=certificates.ca, probe=PROBE)}
        limits = {"hold_timeout": "5m"}
        async with running(
            tmp_path / "daemon", gateways={"edge": gateway(edge)}, clusters=clusters, limits=limits
        ) as daemon:
            await wait_up(daemon, "one")
            await asyncio.to_thread(edge.stop)
            await wait_for_log(daemon, "gateway dial failed", gateway="edge")
            asking = asyncio.get_running_loop().create_task(get(port, certificates), name="client")
            await asyncio.to_thread(edge.start)
            assert await asking == 200
            assert not daemon.events("clients are refused")
