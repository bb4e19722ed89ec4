"""kubectl and helm on kubeconfigs that `kubemux kubeconfig export --proxy` has written: through the daemon
and a real sshd to a real kube-apiserver.
"""

from __future__ import annotations

import base64
import json
import shlex
import sys
from collections.abc import Iterator
from time import monotonic
from typing import Final, Literal

import bcrypt
import pytest
from ruamel.yaml import YAML

from proxy.runtime.endpoint import Endpoint
from tests.integration.conftest import gateway
from tests.integration.jumping import wait_for_port
from tests.integration.recipes import PAGE, Desk
from tests.integration.streaming import stream
from tests.support import nodes, pages
from tests.support.apiserver import ApiServer, asset
from tests.support.daemon import ROOT, Daemon
from tests.support.kubectl import Kubectl
from tests.support.nodes import NODE, Node
from tests.support.parts import NEWER_KUBECTL
from tests.support.ports import free_port
from tests.support.site import SshServerFiles
from tests.support.sshd import Sshd

pytestmark = [pytest.mark.apiserver, pytest.mark.sshd]

NEWER: Final = pytest.mark.newer_kubectl
OLD_BY_HTTP = pytest.param("kubectl-old", "http", id="the machine's, HTTP")
BY_HTTP = pytest.param("kubectl", "http", id="current, HTTP", marks=NEWER)
BY_SOCKS = pytest.param("kubectl", "socks5", id="current, SOCKS5", marks=NEWER)
WAYS: Final = pytest.mark.parametrize(("kubectl", "scheme"), [OLD_BY_HTTP, BY_HTTP, BY_SOCKS])


@pytest.fixture(scope="module")
def desk(apiserver: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A desk whose ~/.kube has exported kubeconfigs for HTTP and SOCKS5, beside an administrator's own."""
    folder, entry = tmp_path_factory.mktemp("kubectl"), Endpoint("127.0.0.1", free_port())
    users = folder / "users"
    users.touch(mode=0o600)
    users.write_bytes(b"ci:" + bcrypt.hashpw(b"secret", bcrypt.gensalt(4)) + b"\n")
    files = SshServerFiles(folder / "ssh")
    with Sshd(folder / "sshd") as sshd:
        section: dict[str, object] = {
            "gateway": "edge",
            "api_servers": [str(apiserver.endpoint)],
            "tls": {"server_name": "kubernetes", "ca_file": str(apiserver.ca_file)},
        }
        with Daemon(
            folder / "daemon",
            gateways={"edge": gateway(sshd), "away": gateway(sshd, port=free_port())},
            clusters={"prod-eu": section, "away": section | {"gateway": "away"}},
            sections={
                "entries": {
                    "proxy": {"listen": str(entry)},
                    "locked": {"listen": f"127.0.0.1:{free_port()}", "users_file": str(users)},
                },
                "ssh_server": files.sections(),
                "users": {"ops": files.authorized("ops")},
                "limits": {"hold_timeout": "0s"},
            },
        ) as daemon:
            daemon.wait_up("prod-eu")
            daemon.wait_up("away", up=False)
            programs = {
                "ops-ssh": shlex.join(files.command("ops")[:-1]),
                "kubemux": f"{sys.executable} -m proxy",
                "kubectl": str(NEWER_KUBECTL),
                "kubectl-old": str(asset("kubectl")),
                "helm": str(NEWER_KUBECTL.with_name("helm")),
            }
            desk = Desk(
                folder,
                entry,
                programs=programs,
                KUBEMUX_CONFIG=str(daemon.config),
                PYTHONPATH=str(ROOT),
                KUBECONFIG="",
            )
            own = desk.home / ".kube" / "config"
            own.parent.mkdir()
            apiserver.kubeconfig(own, context="prod-eu")
            for scheme in ("http", "socks5"):
                options = f"--proxy proxy --proxy-scheme {scheme} --output ~/.kube/{scheme}"
                desk.said(f"kubemux kubeconfig export {options}")
            yield desk


@NEWER
def test_the_recipe_for_kubectl_works_and_writes_the_file_of_the_page(desk: Desk) -> None:
    assert "kube-system" in desk.said(pages.shell(PAGE, "kubectl"))
    yaml = YAML(typ="safe")
    [told] = yaml.load(pages.block(PAGE, "kubectl", "yaml"))["clusters"]
    written = yaml.load(desk.home / ".kube" / "kubemux")["clusters"]
    [found] = [one for one in written if one["name"] == told["name"]]
    server = found["cluster"].pop("server")
    assert server.rpartition(":")[0] == told["cluster"].pop("server").rpartition(":")[0]
    assert found["cluster"].keys() == told["cluster"].keys()
    for key in ("proxy-url", "tls-server-name"):
        assert found["cluster"][key] == desk.here(told["cluster"][key])


@NEWER
def test_the_recipe_for_helm_works(desk: Desk) -> None:
    desk.said("kubemux kubeconfig export --proxy proxy --output ~/.kube/kubemux")
    assert desk.said(pages.shell(PAGE, "helm")).startswith("NAME")


@NEWER
def test_kubectl_works_through_a_client_of_the_ssh_server(desk: Desk, apiserver: ApiServer) -> None:
    """By its SOCKS server (`-D`), with the names of an exported kubeconfig, and by one local port (`-L`)."""
    dynamic, local = free_port(), free_port()
    forwards = ["-D", f"127.0.0.1:{dynamic}", "-L", f"127.0.0.1:{local}:prod-eu:6443"]
    exported = (desk.home / ".kube" / "socks5").read_text()
    (desk.home / ".kube" / "dynamic").write_text(exported.replace(str(desk.entry.port), str(dynamic)))
    apiserver.kubeconfig(desk.home / ".kube" / "local", server=f"https://127.0.0.1:{local}")
    with desk.started("ops-ssh", "-N", *forwards, "127.0.0.1"):
        wait_for_port(local)
        for name in ("dynamic", "local"):
            assert "kube-system" in desk.said(f"kubectl --kubeconfig ~/.kube/{name} get namespaces")


def test_the_recipe_for_argo_cd_works_for_kubectl(desk: Desk, apiserver: ApiServer) -> None:
    """No registry has Argo CD. It hands these values on to client-go, which kubectl has, too."""
    admin = "kubectl-old --kubeconfig ~/.kube/http --context prod-eu"
    account = "argocd-manager"
    binding = f"--clusterrole=cluster-admin --serviceaccount=default:{account}"
    request = json.dumps({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}})
    path = f"/api/v1/namespaces/default/serviceaccounts/{account}/token"
    desk.said(f"{admin} create sa {account}; {admin} create clusterrolebinding {account} {binding}")
    token = json.loads(desk.said(f"{admin} create --raw {path} -f - <<< {shlex.quote(request)}"))
    secret = YAML(typ="safe").load(desk.here(pages.block(PAGE, "Argo CD", "yaml")))["stringData"]
    config = json.loads(secret["config"])
    assert (config["bearerToken"], config["tlsClientConfig"]["caData"]) == ("TOKEN", "BASE64")
    cluster = {
        "server": secret["server"],
        "proxy-url": config["proxyUrl"],
        "tls-server-name": config["tlsClientConfig"]["serverName"],
        "certificate-authority-data": base64.b64encode(apiserver.ca_file.read_bytes()).decode(),
    }
    content = {
        "clusters": [{"name": secret["name"], "cluster": cluster}],
        "users": [{"name": account, "user": {"token": token["status"]["token"]}}],
        "contexts": [{"name": "argo", "context": {"cluster": secret["name"], "user": account}}],
    }
    (desk.home / "argo").write_text(json.dumps(content))
    # The API server learns of the binding a moment after it has stored it.
    began = monotonic()
    while (done := desk.typed("kubectl-old --kubeconfig ~/argo --context argo get ns")).returncode:
        assert monotonic() - began < 60, done.stderr.decode()
    assert "kube-system" in done.stdout.decode()


@WAYS
def test_objects_are_made_and_read(desk: Desk, kubectl: str, scheme: str) -> None:
    command = f"{kubectl} --kubeconfig ~/.kube/{scheme} --context prod-eu"
    (desk.home / "payload").write_text("x" * 200_000)
    made = f"{command} create configmap big --from-file=payload"
    read = f"{command} get configmap big -o jsonpath={{.data.payload}} | wc --bytes"
    said = desk.said(f"{made}\n{read}\n{command} delete configmap big -o name")
    assert said.splitlines() == ["configmap/big created", "200000", "configmap/big"]


@pytest.mark.parametrize(
    ("kubectl", "scheme", "seen"),
    [
        (*OLD_BY_HTTP.values, "kubemux: away: link_down (gateway away has no link"),
        pytest.param(*BY_HTTP.values, "kubemux: away: link_down (gateway away has no link", marks=NEWER),
        pytest.param(*BY_SOCKS.values, "network unreachable", marks=NEWER),
    ],
    ids=["the machine's, HTTP", "current, HTTP", "current, SOCKS5"],
)
def test_the_user_sees_that_a_gateway_is_down(desk: Desk, kubectl: str, scheme: str, seen: str) -> None:
    done = desk.typed(
        f"{kubectl} --kubeconfig ~/.kube/{scheme} --context away --username=x --password=x get ns"
    )
    assert done.returncode == 1
    assert seen in done.stderr.decode()


@WAYS
def test_kubectl_works_through_an_entry_with_passwords(desk: Desk, kubectl: str, scheme: str) -> None:
    """The export says where to add the password, and a later export keeps it."""
    file = desk.home / ".kube" / f"locked-{kubectl}-{scheme}"
    export = f"kubemux kubeconfig export --proxy locked --proxy-scheme {scheme} --output {file}"
    get = f"{kubectl} --kubeconfig {file} --context prod-eu get ns"
    told = desk.typed(export).stderr.decode()
    assert f"write each proxy-url as {scheme}://USER:PASSWORD@127.0.0.1:" in told
    refused = desk.typed(get)
    assert refused.returncode == 1
    seen = "no acceptable authentication methods" if scheme == "socks5" else "kubemux: auth_required"
    assert seen in refused.stderr.decode()
    file.write_text(file.read_text().replace(f"{scheme}://", f"{scheme}://ci:secret@"))
    assert "kube-system" in desk.said(f"{export}; {get}")


@pytest.fixture(scope="module")
def pod(apiserver: ApiServer, desk: Desk, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The pod `web`, on a node with a stand-in kubelet."""
    issued = apiserver.certificates.authority.issue(NODE, dns=(NODE,))
    command = "kubectl-old --kubeconfig ~/.kube/http --context prod-eu"
    with Node(tmp_path_factory.mktemp("node") / "sshd", issued=issued, ca=apiserver.ca_file) as node:
        node.stop()  # its sshd
        address = {"type": "InternalIP", "address": node.host}
        status = {"addresses": [address], "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}}}
        for item in ({**nodes.NODE_OBJECT, "status": status}, nodes.POD):
            desk.said(f"{command} create -f - <<< {shlex.quote(json.dumps(item))}")
        running = shlex.quote(json.dumps({**nodes.POD, "status": nodes.POD_STATUS}))
        path = "/api/v1/namespaces/default/pods/web/status"
        desk.said(f"{command} replace --raw {path} -f - <<< {running}")
        yield
        desk.said(f"{command} delete --force --grace-period=0 pod/web node/{NODE}")


@pytest.mark.network
@pytest.mark.usefixtures("pod")
@pytest.mark.parametrize(
    ("kubectl", "scheme", "by"),
    [
        pytest.param(*OLD_BY_HTTP.values, "SPDY", id="the machine's, HTTP, SPDY"),
        *(
            pytest.param(*way.values, by, id=f"{way.id}, {by}", marks=NEWER)
            for way in (BY_HTTP, BY_SOCKS)
            for by in ("WebSocket", "SPDY")
        ),
    ],
)
def test_terminals_pipes_ports_and_logs_stream(
    desk: Desk, kubectl: str, scheme: str, by: Literal["SPDY", "WebSocket"]
) -> None:
    options = f"--kubeconfig={desk.home}/.kube/{scheme}", "--context=prod-eu"
    stream(Kubectl(desk.words(kubectl, *options), desk.environment), by=by)
