"""Pods of a real kube-apiserver, watched through a real sshd, and reached by name wherever they are."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from time import monotonic
from typing import NamedTuple

import pytest

from proxy.runtime.endpoint import Endpoint
from tests.integration.conftest import cluster, gateway
from tests.integration.running import running, wait_for_log
from tests.integration.test_by_name import ask
from tests.support import pages
from tests.support.apiserver import ApiServer
from tests.support.daemon import Daemon
from tests.support.etcd import forget
from tests.support.ports import free_net, free_port
from tests.support.serving import Server
from tests.support.sshd import Sshd

pytestmark = [pytest.mark.apiserver, pytest.mark.sshd, pytest.mark.network]

SECONDS = 90.0


class Notebook(Server):
    """Sends the address at which the client reached it."""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(str(writer.get_extra_info("sockname")[0]).encode().ljust(15))
        await writer.drain()
        await reader.read()

    async def listen(self) -> None:
        self._port = self._port or free_port()
        self._server = await asyncio.start_server(self._accept, "0.0.0.0", self._port)  # noqa: S104 - the pods' addresses are not loopback


class Bed(NamedTuple):
    daemon: Daemon
    proxy: Endpoint
    admin: Path
    addresses: tuple[str, str]
    namespace: str


@pytest.fixture
def addresses() -> Iterator[tuple[str, str]]:
    """Two addresses of this machine outside the loopback network, like those of pods."""
    one, other = map(str, free_net().hosts())
    for address in (one, other):
        subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True, timeout=60)
    yield one, other
    for address in (one, other):
        subprocess.run(["ip", "address", "del", f"{address}/32", "dev", "lo"], check=True, timeout=60)


ACCOUNT, *ROLE = pages.block("docs/notebooks.md", "The role", "yaml").split("---\n")
"""The service account and the role of the page."""


async def kubectl(apiserver: ApiServer, admin: Path, *words: str, stdin: str | None = None) -> str:
    return await asyncio.to_thread(apiserver.kubectl, *words, kubeconfig=admin, stdin=stdin)


async def place(apiserver: ApiServer, bed: Bed, name: str, address: str) -> None:
    """Make a pod, or move it to another address, by writing its status as a kubelet does."""
    item = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": bed.namespace, "labels": {"app": "notebook"}},
        "spec": {"containers": [{"name": "notebook", "image": "notebook"}]},
    }
    await kubectl(apiserver, bed.admin, "apply", "-f", "-", stdin=json.dumps(item))
    now = json.loads(
        await kubectl(apiserver, bed.admin, "get", "pod", name, "-n", bed.namespace, "-o", "json")
    )
    now["status"] = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
    path = f"/api/v1/namespaces/{bed.namespace}/pods/{name}/status"
    await kubectl(apiserver, bed.admin, "replace", "--raw", path, "-f", "-", stdin=json.dumps(now))


async def reached(bed: Bed, name: str, port: int = 22) -> str:
    """Ask the entry for a pod. Returns the address that the client reached, or the entry's refusal."""
    status, came = await ask(bed.proxy, f"{name}.{bed.namespace}:{port}", b"x" * 15)
    return came.decode().strip() if status.startswith("200") else status


async def wait_reached(bed: Bed, name: str, expected: str) -> None:
    """Ask again and again until `reached` returns what is expected. Raises AssertionError."""
    began = monotonic()
    while (there := await reached(bed, name)) != expected:
        assert monotonic() - began < SECONDS, there
        await asyncio.sleep(0.05)


@pytest.fixture
async def bed(
    sshd: Sshd, apiserver: ApiServer, addresses: tuple[str, str], tmp_path: Path
) -> AsyncIterator[Bed]:
    namespace = f"team-{secrets.token_hex(4)}"
    admin = apiserver.kubeconfig(tmp_path / "admin")
    await kubectl(apiserver, admin, "create", "namespace", namespace)
    await kubectl(apiserver, admin, "apply", "-f", "-", stdin=ACCOUNT.replace("team-a", namespace))
    # What `kubectl create token` does; this kubectl is too old for it.
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/kubemux/token"
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    made = await kubectl(apiserver, admin, "create", "--raw", path, "-f", "-", stdin=json.dumps(request))
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text(json.loads(made)["status"]["token"])
    probe = {"interval": "500ms", "token_file": str(token)}
    proxy = Endpoint("127.0.0.1", free_port())
    async with Notebook() as notebook:
        # The sshd_config lines that the page proposes for the gateway's account.
        sshd.reconfigure({"PermitOpen": f"{apiserver.endpoint} *:{notebook.endpoint.port}"})
        await asyncio.to_thread(sshd.restart)
        discover = {
            "cluster": "prod",
            "selector": "app=notebook",
            "namespace": namespace,
            "port": notebook.endpoint.port,
        }
        async with running(
            tmp_path / "daemon",
            gateways={"edge": gateway(sshd)},
            clusters={"prod": cluster(free_port(), apiserver.endpoint, ca=apiserver.ca_file, probe=probe)},
            entries={"proxy": {"listen": str(proxy)}},
            routes=[
                {
                    "name": "notebooks",
                    "gateway": "edge",
                    "discover": discover,
                    "allow": [f"uid:{os.getuid()}"],
                }
            ],
        ) as daemon:
            yield Bed(daemon, proxy, admin, addresses, namespace)


def discovery(daemon: Daemon) -> dict[str, object]:
    told: dict[str, object] = json.loads(daemon.get("/status")[1])["routes"][0]["discovery"]
    return told


async def test_a_pod_is_found_where_it_is(bed: Bed, apiserver: ApiServer, etcd: str, sshd: Sshd) -> None:
    daemon, (one, other) = bed.daemon, bed.addresses
    # The first login may last longer than the first watch waits for a link.
    refused = await wait_for_log(daemon, "watch of pods broken", route="notebooks", reason="unauthorized")
    assert "docs/notebooks.md" in str(refused["hint"])
    assert f'{bed.namespace}:kubemux" cannot list resource "pods"' in str(refused["message"])
    role = "---\n".join(ROLE).replace("team-a", bed.namespace)
    await kubectl(apiserver, bed.admin, "apply", "-f", "-", stdin=role)
    started = await wait_for_log(daemon, "pods watched", route="notebooks")
    assert (started["cluster"], started["pods"]) == ("prod", 0)
    await place(apiserver, bed, "nb-0", one)
    await wait_reached(bed, "nb-0", one)
    await place(apiserver, bed, "nb-0", other)
    await wait_reached(bed, "nb-0", other)
    assert (await reached(bed, "nb-0", 80)).startswith("404 ")
    told = discovery(daemon)
    assert (told["state"], told["pods"], told["reason"]) == ("watching", 1, "")

    # The link is lost. kubemux still knows the pods, as its answers show.
    sshd.stop()
    await wait_for_log(daemon, "watch of pods broken", route="notebooks", reason="link_down")
    unknown = await reached(bed, "nb-1")
    assert unknown.startswith("404 kubemux: nb-1.")
    assert "its watch is broken" in unknown
    assert not (await reached(bed, "nb-0")).startswith("404 "), "the pod is known; only the gateway is down"
    told = discovery(daemon)
    assert (told["state"], told["pods"], told["reason"]) == ("broken", 1, "link_down")

    # The pod moves meanwhile. The watch continues where it broke off, and finds the new address.
    await place(apiserver, bed, "nb-0", one)
    sshd.start()
    await wait_reached(bed, "nb-0", one)
    assert daemon.events("pods are listed again") == []

    # It moves once more, and etcd forgets how: all pods are listed again.
    sshd.stop()
    await asyncio.to_thread(
        daemon.wait_for, "the watch breaks", lambda: discovery(daemon)["state"] == "broken"
    )
    await place(apiserver, bed, "nb-0", other)
    await asyncio.to_thread(forget, etcd)
    sshd.start()
    await wait_reached(bed, "nb-0", other)
    assert [entry["route"] for entry in daemon.events("pods are listed again")] == ["notebooks"]

    # After a reload, changed routes watch other pods, and replaced clusters are watched anew.
    content = json.loads(daemon.config.read_text())
    gone = f"404 kubemux: nb-0.{bed.namespace}: unknown_name (prod (route notebooks) has no such pod)"
    for selector, there in (("app=lab", gone), ("app=notebook", other)):
        content["routes"][0]["discover"]["selector"] = selector
        content["clusters"]["prod"]["api_servers"].append(f"127.0.0.1:{free_port()}")
        daemon.config.write_text(json.dumps(content))
        daemon.signal(signal.SIGHUP)
        await wait_reached(bed, "nb-0", there)

    await kubectl(
        apiserver, bed.admin, "delete", "pod", "nb-0", "-n", bed.namespace, "--force", "--grace-period=0"
    )
    await wait_reached(bed, "nb-0", gone)
