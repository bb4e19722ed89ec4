"""The demo's stand-in API servers, directly: with curl for TLS and HTTP, with kubectl for the API."""

from __future__ import annotations

import json
import ssl
from pathlib import Path

import pytest

from proxy.demo.stage import Stage
from tests.demo.conftest import Finished, call, trusting
from tests.support.asking import Asker


async def kubectl(stage: Stage, folder: Path, *args: str, token: str | None = None) -> Finished:
    cluster = stage.config.clusters["berlin"]
    return await call(
        "kubectl",
        f"--server=https://{cluster.api_servers[0]}",
        f"--certificate-authority={cluster.tls.ca_file}",
        "--tls-server-name=kubernetes",
        f"--token={token or stage.token}",
        *args,
        folder=folder,
    )


@pytest.mark.kubectl
@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("get ns", ["NAME STATUS AGE", "default Active 0s", "kube-system Active 0s"]),
        (
            "get nodes",
            [
                "NAME STATUS ROLES VERSION AGE",
                "berlin-control-plane Ready control-plane v1.32.0-kubemux-demo 0s",
                "berlin-worker-1 Ready <none> v1.32.0-kubemux-demo 0s",
                "berlin-worker-2 Ready <none> v1.32.0-kubemux-demo 0s",
            ],
        ),
        (
            "get pods -A",
            [
                "NAMESPACE NAME READY STATUS RESTARTS AGE",
                "kube-system coredns-0 1/1 Running 0 0s",
                "kube-system kube-apiserver-control-plane 1/1 Running 0 0s",
                "default web-0 1/1 Running 0 0s",
                "default database-0 1/1 Running 0 0s",
            ],
        ),
        (
            "get pods",
            ["NAME READY STATUS RESTARTS AGE", "web-0 1/1 Running 0 0s", "database-0 1/1 Running 0 0s"],
        ),
        ("get pod web-0 -o name", ["pod/web-0"]),
        ("get ns -o jsonpath={.items[*].status.phase}", ["Active Active"]),
    ],
)
async def test_kubectl_shows_the_objects(
    stage: Stage, tmp_path: Path, command: str, expected: list[str]
) -> None:
    got = await kubectl(stage, tmp_path, *command.split())
    assert (got.code, got.err) == (0, "")
    lines = [" ".join(line.split()) for line in got.out.splitlines()]
    # The age is how long the demo has run.
    assert [line.rpartition(" ")[0] if line.endswith("s") else line for line in lines] == [
        line.rpartition(" ")[0] if line.endswith("s") else line for line in expected
    ]


@pytest.mark.kubectl
async def test_kubectl_shows_the_version_of_the_server(stage: Stage, tmp_path: Path) -> None:
    got = await kubectl(stage, tmp_path, "version", "-o", "json")
    assert json.loads(got.out)["serverVersion"]["gitVersion"] == "v1.32.0-kubemux-demo"


@pytest.mark.kubectl
@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("get pod nothing", 'Error from server (NotFound): pods "nothing" not found'),
        ("delete pod web-0", "the demo's clusters are read only"),
        ("get secrets", "the server doesn't have a resource type"),
        ("get --raw /api/v1/secrets", "the demo's clusters have namespaces, nodes, pods only"),
        ("get --raw /api/v1/pods/web-0", "the demo's clusters have namespaces, nodes, pods only"),
        (
            "get --raw /api/v1/namespaces/default/nodes",
            "the demo's clusters have namespaces, nodes, pods only",
        ),
    ],
)
async def test_kubectl_gets_a_message_for_unsupported_requests(
    stage: Stage, tmp_path: Path, command: str, error: str
) -> None:
    got = await kubectl(stage, tmp_path, *command.split())
    assert got.code == 1
    assert error in got.err


@pytest.mark.kubectl
async def test_a_wrong_token_is_unauthorized(stage: Stage, tmp_path: Path) -> None:
    got = await kubectl(stage, tmp_path, "get", "ns", token="wrong")  # noqa: S106 - the case
    assert got.code == 1
    assert "Unauthorized" in got.err or "must be logged in" in got.err


@pytest.mark.parametrize(
    ("path", "status"), [("healthz", 200), ("livez", 200), ("readyz", 200), ("version", 200), ("api", 401)]
)
async def test_health_and_version_need_no_token(stage: Stage, path: str, status: int) -> None:
    server = stage.config.clusters["tokyo"].api_servers[0]
    assert (await Asker(server, trusting(stage, "tokyo"), "kubernetes").get(f"/{path}")).status == status


@pytest.mark.parametrize(("trusted", "name"), [("tokyo", "127.0.0.1"), ("berlin", "kubernetes")])
async def test_the_certificate_is_for_kubernetes_and_signed_by_the_clusters_own_ca(
    stage: Stage, trusted: str, name: str
) -> None:
    server = stage.config.clusters["tokyo"].api_servers[0]
    with pytest.raises(ssl.SSLCertVerificationError):
        await Asker(server, trusting(stage, trusted), name).get("/healthz")
