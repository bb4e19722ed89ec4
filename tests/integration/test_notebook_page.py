"""The notebooks' page with its words: the SSH server as uid 1000, with files that belong to root, and the pod
that `discover` finds.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Final

import pytest
from ruamel.yaml import YAML

from proxy.runtime.endpoint import Endpoint
from tests.integration.conftest import gateway
from tests.integration.recipes import Desk
from tests.integration.test_notebooks import UID, USER, folder, with_files
from tests.integration.test_pods import addresses
from tests.support import pages
from tests.support.apiserver import ApiServer, asset
from tests.support.daemon import ROOT, Daemon
from tests.support.kubectl import Kubectl
from tests.support.parts import find
from tests.support.ports import free_port
from tests.support.ssh_keys import new_key, public
from tests.support.sshd import Sshd

pytestmark = [pytest.mark.sshd, pytest.mark.network]

__all__ = ["addresses", "folder"]
PAGE: Final = "docs/notebooks.md"
GROUP: Final = 100
"""fsGroup: the group of the files of a Secret."""
SECONDS: Final = 60.0


@pytest.fixture
def server(folder: Path, addresses: tuple[str, str]) -> Iterator[Path]:
    """The page's sshd, and the folder of its files. It listens on the addresses of both pods at once."""
    for name in ("host", "user", "home"):
        (folder / name).mkdir()
    new_key(folder / "host" / "ssh_host_ed25519_key")
    new_key(folder / "identity")
    (folder / "user" / "authorized_keys").write_bytes((folder / "identity.pub").read_bytes())
    for file in (*(folder / "host").iterdir(), *(folder / "user").iterdir()):
        os.chown(file, 0, GROUP)
        file.chmod(0o440)
    os.chown(folder / "home", UID, GROUP)
    words = pages.block(PAGE, "sshd_config", "sshd-config").replace("/etc/notebook-ssh", str(folder))
    assert "Port 2209\n" in words
    words += "".join(f"ListenAddress {address}\n" for address in addresses)
    (folder / "sshd_config").write_text(words)
    sshd = find("sshd") or "sshd"
    passwd = folder / "passwd"
    passwd.write_text(f"{USER}:x:{UID}:{GROUP}::{folder / 'home'}:/bin/sh\n")
    user = ("setpriv", f"--reuid={UID}", f"--regid={GROUP}", "--clear-groups")
    command = with_files(*user, sshd, "-D", "-e", "-f", str(folder / "sshd_config"), passwd=passwd)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            said = [process.stderr.readline() for _ in addresses]
            assert all("listening on" in line for line in said), said
            yield folder
        finally:
            process.terminate()
            process.communicate(timeout=SECONDS)


@pytest.fixture
def entry() -> Endpoint:
    """The address that replaces 127.0.0.1:3128 of the page."""
    return Endpoint("127.0.0.1", free_port())


@pytest.fixture
def desk(server: Path, entry: Endpoint) -> Desk:
    """The desk of a user who has the key, and the known_hosts line that the page gives."""
    known_hosts, config = server / "known_hosts", server / "ssh_config"
    known_hosts.write_text(f"nb.team-a {public(server / 'host' / 'ssh_host_ed25519_key')}\n")
    options = f"-F {config} -o UserKnownHostsFile={known_hosts} -o IdentityFile={server / 'identity'}"
    options += " -o StrictHostKeyChecking=yes -o BatchMode=yes"
    programs = {
        "ssh": f"{find('ssh')} {options}",
        "scp": f"{find('scp')} -S {find('ssh')} {options}",
        "kubemux": f"{sys.executable} -m proxy",
    }
    return Desk(server / "desk", entry, programs=programs, PYTHONPATH=str(ROOT))


def test_the_server_of_the_page_lets_in_by_key_alone(
    server: Path, desk: Desk, addresses: tuple[str, str]
) -> None:
    (server / "ssh_config").write_text(f"User {USER}\nHostKeyAlias nb.team-a\nPort 2209\n")
    said = desk.said(f"ssh {addresses[0]} 'id -u; pwd'")
    assert said.split() == [str(UID), str(server / "home")]
    without = desk.typed(f"ssh -o PubkeyAuthentication=no {addresses[0]} true")
    assert without.returncode == 255
    assert f"{USER}@{addresses[0]}: Permission denied (publickey)." in without.stderr.decode()


class Pod:
    """`nb-0`, as the page's StatefulSet makes it."""

    def __init__(self, kubectl: Kubectl, namespace: str) -> None:
        self._kubectl = kubectl
        self._namespace = namespace
        text = pages.block(PAGE, "The StatefulSet", "yaml").replace("team-a", namespace)
        made = YAML(typ="safe").load(text)
        self._kubectl.said("create", "-f", "-", stdin=made)  # no controller runs here, so it has no pod yet
        template = made["spec"]["template"]
        template["spec"]["volumes"].append({"name": "home", "emptyDir": {}})  # its volumeClaimTemplate
        metadata = {"name": "nb-0", "namespace": namespace, **template["metadata"]}
        self._made = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
        self._kubectl.said("create", "-f", "-", stdin=self._made)

    def run_at(self, address: str) -> None:
        """Write the pod's status, as a kubelet does."""
        status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
        path = f"/api/v1/namespaces/{self._namespace}/pods/nb-0/status"
        self._kubectl.said("replace", "--raw", path, "-f", "-", stdin={**self._made, "status": status})


@pytest.fixture
def kubectl(apiserver: ApiServer, tmp_path: Path) -> Kubectl:
    """kubectl with an administrator's rights."""
    config = apiserver.kubeconfig(tmp_path / "admin")
    return Kubectl([asset("kubectl"), "--kubeconfig", config], apiserver.environment)


@pytest.fixture
def namespace(kubectl: Kubectl) -> str:
    """A namespace that replaces `team-a` of the page, with the page's role and service account."""
    name = f"team-{secrets.token_hex(4)}"
    kubectl.said("create", "namespace", name)
    role = pages.block(PAGE, "The role", "yaml").replace("team-a", name)
    for item in YAML(typ="safe").load_all(role):
        kubectl.said("create", "-f", "-", stdin=item)
    return name


@pytest.fixture
def daemon(
    apiserver: ApiServer, sshd: Sshd, kubectl: Kubectl, namespace: str, entry: Endpoint, tmp_path: Path
) -> Iterator[Daemon]:
    """kubemux with the page's configuration."""
    # The same request as `kubectl create token`, which older kubectl does not have.
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/kubemux/token"
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    token = tmp_path / "token"
    token.touch(mode=0o600)
    made = json.loads(kubectl.said("create", "--raw", path, "-f", "-", stdin=request))
    token.write_text(made["status"]["token"])
    text = pages.block(PAGE, "kubemux", "yaml")
    here = {
        "/etc/kubemux/tokens/prod-eu": str(token),
        "10.0.0.10:6443": str(apiserver.endpoint),
        "127.0.0.1:3128": str(entry),
        "gid:datascience": f"uid:{os.getuid()}",
        "team-a": namespace,
    }
    for word, other in here.items():
        assert word in text
        text = text.replace(word, other)
    sections = YAML(typ="safe").load(text)
    clusters = sections.pop("clusters")
    clusters["prod-eu"]["tls"] = {"server_name": "kubernetes", "ca_file": str(apiserver.ca_file)}
    gateways = {"eu-edge": gateway(sshd)}
    with Daemon(tmp_path / "daemon", gateways=gateways, clusters=clusters, sections=sections) as daemon:
        daemon.wait_for("pods are watched", lambda: bool(daemon.events("pods watched")))
        yield daemon


@pytest.mark.apiserver
def test_an_unchanged_ssh_reaches_the_pod_wherever_it_runs(
    server: Path, desk: Desk, daemon: Daemon, kubectl: Kubectl, namespace: str, addresses: tuple[str, str]
) -> None:
    blocks = desk.said(f"kubemux ssh-config --config {daemon.config}")
    told, added = (pages.block(PAGE, heading, "ssh-config") for heading in ("ssh", "What you add"))
    assert [line for line in blocks.splitlines() if line and not line.startswith("#")] == [
        line.replace("team-a", namespace) for line in desk.here(told).splitlines()
    ]
    added = added.replace("*.team-a", f"*.{namespace}")
    listed = pages.block(PAGE, "VS Code", "ssh-config").replace("team-a", namespace)
    (server / "ssh_config").write_text(listed + blocks + added)
    pod = Pod(kubectl, namespace)
    for address in addresses:
        pod.run_at(address)
        asked = f"ssh nb-0.{namespace} 'id -u; echo $SSH_CONNECTION'"
        began = monotonic()
        while (said := desk.typed(asked).stdout.decode().split())[3:4] != [address]:
            assert monotonic() - began < SECONDS, said
        assert (said[0], said[4]) == (str(UID), "2209")
    (desk.home / "data").mkdir()
    (desk.home / "data" / "one").write_text("some data")
    lines = pages.shell(PAGE, "What you add").replace("team-a", namespace)
    done = desk.typed(lines, stdin=b"pwd\n")
    assert (done.returncode, done.stdout.decode()) == (0, f"{server / 'home'}\n"), done.stderr.decode()
    assert (server / "home" / "data" / "one").read_text() == "some data"
    as_vs_code(desk, f"nb-0.{namespace}", addresses[1])


def as_vs_code(desk: Desk, host: str, address: str) -> None:
    """Remote-SSH pipes a script into this command, and connects to what the script started through `-D`."""
    port = free_port()
    command = desk.words("ssh", "-T", "-D", str(port), "-o", "ConnectTimeout=60", host, "bash")
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=desk.environment
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(b"id -u\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"%d\n" % UID
        with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as client:
            client.sendall(b"\5\1\0" + b"\5\1\0\1" + socket.inet_aton(address) + (2209).to_bytes(2, "big"))
            with client.makefile("rb") as answer:
                assert answer.read(2 + 10) == b"\5\0" + b"\5\0\0\1" + bytes(6)
                assert answer.read(4) == b"SSH-"
        process.stdin.close()
        assert process.wait(SECONDS) == 0
