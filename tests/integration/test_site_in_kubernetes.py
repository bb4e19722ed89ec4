"""A real kube-apiserver accepts the Deployment that `kubemux site add` prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from proxy.cli.sites.far_side import IMAGE, FarSide
from proxy.config.matches import Match
from proxy.runtime.endpoint import Endpoint
from tests.support.apiserver import ApiServer

pytestmark = pytest.mark.apiserver


@pytest.mark.parametrize("name", ["factory-7", "a_b.example"])
def test_kubernetes_accepts_the_deployment(name: str, apiserver: ApiServer, tmp_path: Path) -> None:
    """A dry run: the server checks it as when it is created. kubectl would refuse a misspelt key."""
    server = Endpoint("bastion.example.com", 2222)
    permit = (Match.parse("10.1.0.0/16:22"),)
    printed = FarSide(name, server, ["ssh-ed25519 AAAA"], permit, 1080).deployment(IMAGE)
    kubeconfig = apiserver.kubeconfig(tmp_path / "kubeconfig")
    said = apiserver.kubectl(
        "create", "--dry-run=server", "--validate", "-f", "-", kubeconfig=kubeconfig, stdin=printed
    )
    assert re.fullmatch(r"deployment.apps/kubemux-site-\S+ created \(server dry run\)\n", said)
    pod = YAML(typ="safe").load(printed)["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    with pytest.raises(AssertionError, match="unknown field"):
        apiserver.kubectl(
            "create",
            "--dry-run=server",
            "--validate",
            "-f",
            "-",
            kubeconfig=kubeconfig,
            stdin=printed.replace("readOnlyRootFilesystem", "readOnlyRootFileSystem"),
        )
