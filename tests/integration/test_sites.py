"""Sites: an OpenSSH client logs in to the daemon, which reaches clusters and hosts through it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from proxy.runtime.endpoint import Endpoint
from tests.faults.api import Api
from tests.integration.conftest import cluster
from tests.integration.running import get, wait_for_log, wait_for_metric, wait_up
from tests.integration.sites import ALL, bed
from tests.support import kubemux
from tests.support.daemon import Sections
from tests.support.echo import pattern
from tests.support.ports import free_port
from tests.support.tls import Certificates

pytestmark = pytest.mark.sshd

OPENED = "200 Connection established"
PROBE = {"interval": "500ms", "timeout": "1m", "threshold": 1}


async def test_a_dynamic_forward_leads_to_a_cluster_and_to_names(
    tmp_path: Path, certificates: Certificates
) -> None:
    port, dead = free_port(), Endpoint("127.0.0.1", free_port())
    async with Api(certificates) as api:
        prod = cluster(port, dead, api.endpoint, via="factory-7", ca=certificates.ca, probe=PROBE)
        async with bed(tmp_path, {"factory-7": ALL}, clusters={"prod": prod}) as one:
            daemon = one.daemon
            assert one.told("factory-7")["state"] == "connecting"
            async with one.ssh("factory-7", "factory-7:1080"):
                await wait_up(daemon, "prod")
                assert await get(port, certificates) == 200
                payload = pattern(300_000)
                assert await one.ask(f"factory-7:{one.echo.port}", payload) == (OPENED, payload)
                assert daemon.metric("kubemux_site_connected", site="factory-7") == 1
                status, _ = await one.ask("node.factory-7:22")
                assert "sites.factory-7.permit does not have node:22" in status
                status, _ = await one.ask(f"factory-7:{dead.port}")
                assert status.startswith("502 kubemux: factory-7: channel_refused (")
                assert "PermitRemoteOpen" in status
                site = one.told("factory-7")
                assert (site["state"], site["away"], site["reason"]) == ("up", None, "")
                assert site["links"][0]["forwards"] == ["factory-7:1080"]
                assert site["links"][0]["address"].startswith("127.0.0.1:")
                assert site["links"][0]["key"].startswith("SHA256:")
                assert site["bytes_to_site"] == site["bytes_from_site"] == len(payload)
                asked = await asyncio.to_thread(
                    kubemux.run, "probe", "prod", "--json", "--config", str(daemon.config)
                )
                assert (asked.returncode, json.loads(asked.stdout)["result"]) == (0, "ok"), asked
                assert "factory-7 is a site: the daemon, pid " in asked.stderr
                await one.until("factory-7", "no channel", lambda site: not site["links"][0]["channels"])
            await wait_for_log(daemon, "link lost", gateway="factory-7")
            await wait_for_metric(daemon, 0, "kubemux_site_connected", site="factory-7")
            await wait_up(daemon, "prod", up=False)
            site = one.told("factory-7")
            assert (site["state"], site["connected"], site["reason"]) == ("down", None, "link_lost")


async def test_a_fixed_forward_leads_to_one_target(tmp_path: Path, certificates: Certificates) -> None:
    port, dead = free_port(), free_port()
    async with Api(certificates) as api:
        prod = cluster(port, Endpoint("kube", 6443), via="edge", ca=certificates.ca)
        route: Sections = {"name": "robots", "match": ["robot:*"], "gateway": "edge", "target": "kube:{port}"}
        async with bed(tmp_path, {"edge": ALL}, clusters={"prod": prod}, routes=[route]) as one:
            forwards = (f"kube:6443:{api.endpoint}", f"kube:1:127.0.0.1:{dead}", f"kube:7:{one.echo}")
            async with one.ssh("edge", *forwards):
                await wait_up(one.daemon, "prod")
                assert await get(port, certificates) == 200
                payload = pattern(300_000)
                assert await one.ask("kube.edge:7", payload) == (OPENED, payload)
                assert await one.ask("robot:7", payload) == (OPENED, payload)
                status, _ = await one.ask("kube.edge:1")
                assert "could not connect to kube:1: Connection refused" in status, status
                status, _ = await one.ask("kube.edge:2")
                assert "has no forward for kube:2; it has kube:1, kube:7, kube:6443" in status, status
                assert one.told("edge")["links"][0]["forwards"] == ["kube:1", "kube:7", "kube:6443"]


async def test_clients_wait_for_a_site_that_may_come_and_not_for_one_that_is_away(tmp_path: Path) -> None:
    async with bed(
        tmp_path, {"edge": ALL, "gone": ALL}, limits={"drain_timeout": "500ms", "hold_timeout": "30s"}
    ) as one:
        payload = pattern(10_000)
        async with asyncio.TaskGroup() as group, one.ssh("edge", "edge:1080"):
            waiting = group.create_task(one.ask(f"edge:{one.echo.port}", payload))
            assert await waiting == (OPENED, payload)
        await one.reload(limits={"drain_timeout": "500ms", "hold_timeout": "100ms"})
        status, _ = await one.ask("gone:1")
        assert status.startswith("503 kubemux: gone: link_down (site gone has no link"), status
        status, _ = await one.ask("gone:1")
        assert "and has had none for" in status
