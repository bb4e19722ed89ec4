"""Real kubectl and a real kube-apiserver at a site: by the site's dynamic forward, and by a fixed one."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from typing import Final

import pytest

from proxy.runtime.endpoint import Endpoint
from tests.integration.conftest import cluster, mapped
from tests.integration.running import wait_up
from tests.integration.sites import ALL, bed
from tests.support.apiserver import ApiServer, asset
from tests.support.kubectl import Kubectl, next_line
from tests.support.ports import free_port

pytestmark = [pytest.mark.apiserver, pytest.mark.sshd]

SITE: Final = "factory-7"
KUBE: Final = Endpoint("kube", 6443)
NAME: Final = "at-a-site"
WATCH: Final = (
    *("get", "cm", f"--field-selector=metadata.name={NAME}", "--watch", "--output-watch-events"),
    "-o=jsonpath={.type} {.object.data.a}{'\\n'}",
)
SECOND: Final = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME}, "data": {"a": "2"}}


def use(dynamic: Kubectl, fixed: Kubectl) -> None:
    """Change an object through both forwards, and watch it through both."""
    with dynamic.started(*WATCH) as one, fixed.started(*WATCH) as other:
        dynamic.said("create", "cm", NAME, "--from-literal=a=1")
        both_see("ADDED 1", one, other)
        fixed.said("replace", "-f", "-", stdin=SECOND)
        both_see("MODIFIED 2", one, other)
        dynamic.said("delete", "cm", NAME)
        both_see("DELETED 2", one, other)


def both_see(event: str, *watches: subprocess.Popen[str]) -> None:
    for watch in watches:
        assert next_line(watch) == f"{event}\n"


async def test_kubectl_works_by_either_forward(tmp_path: Path, apiserver: ApiServer) -> None:
    targets = {"dynamic": apiserver.endpoint, "fixed": KUBE}
    ports = {way: free_port() for way in targets}
    clusters: dict[str, object] = {
        way: cluster(port, targets[way], via=SITE, ca=apiserver.ca_file) for way, port in ports.items()
    }
    dynamic, fixed = (
        Kubectl([asset("kubectl"), "--kubeconfig", mapped(apiserver, tmp_path, port)], apiserver.environment)
        for port in ports.values()
    )
    forwards = (f"{SITE}:1080", f"{KUBE}:{apiserver.endpoint}")
    async with bed(tmp_path, {SITE: ALL}, clusters=clusters) as one, one.ssh(SITE, *forwards):
        await wait_up(one.daemon, *ports)
        await asyncio.to_thread(use, dynamic, fixed)
        for way in ports:
            assert one.daemon.metric("kubemux_bytes_total", cluster=way, direction="from_cluster") > 1000
