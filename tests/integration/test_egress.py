"""A real kube-apiserver reaches its nodes through kubemux, with the configurations of docs/egress.md."""

from __future__ import annotations

import base64
import grp
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

import pytest
from ruamel.yaml import YAML

from proxy.runtime.endpoint import Endpoint
from tests.integration.egress import PAGE, SELECTOR, Cluster, Places, flags, running
from tests.integration.streaming import BY_POD, follow_logs, stream
from tests.support import nodes, pages
from tests.support.apiserver import ApiServer
from tests.support.daemon import Daemon
from tests.support.kubectl import SECONDS, next_line
from tests.support.kubelet.serving import GROUP
from tests.support.nodes import NODE, Node
from tests.support.parts import NEWER_KUBECTL
from tests.support.ports import free_port
from tests.support.site import SshServerFiles
from tests.support.ssh_keys import new_key
from tests.support.tls import Authority

pytestmark = [pytest.mark.apiserver, pytest.mark.sshd, pytest.mark.network]

ONE_GATEWAY, OWN_SSHD = "One gateway for the cluster's network", "Each node's own sshd"
SELECTOR_FOR_TLS: Final = "The API server's file for TLS"
ENTRY_FOR_TLS: Final = "The entry for TLS"
SOCKET: Final = "/run/kubemux-entries/kube.sock"
BOTH_WAYS: Final = pytest.mark.parametrize(
    "daemon", [ONE_GATEWAY, OWN_SSHD], ids=["one gateway", "own sshd"], indirect=True
)
SERVICE: Final = "hook"
SITE: Final = "factory-7"


@pytest.fixture(scope="module")
def cluster(etcd: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("egress")
    apiserver = ApiServer(folder / "apiserver")
    kubelet = apiserver.certificates.authority.issue(NODE, dns=(NODE, f"{SERVICE}.default.svc"))
    egress = folder / "egress.sock"
    words = flags(apiserver, heading=SELECTOR, places={SOCKET: egress})
    with Node(folder / "node", issued=kubelet, ca=apiserver.ca_file) as node, apiserver.run(etcd, *words):
        node.stop()
        found = Cluster(apiserver, node, egress)
        found.create(nodes.NODE_OBJECT, nodes.POD)
        status = {**nodes.POD, "status": nodes.POD_STATUS}
        path = "/api/v1/namespaces/default/pods/web/status"
        found.kubectl.said("replace", "--raw", path, "-f", "-", stdin=status)
        yield found


@pytest.fixture
def node(cluster: Cluster) -> Iterator[Node]:
    """The cluster's node, with an sshd that the test may stop."""
    cluster.node.start()
    yield cluster.node
    cluster.node.stop()


@pytest.fixture
def daemon(request: pytest.FixtureRequest, cluster: Cluster, node: Node, tmp_path: Path) -> Iterator[Daemon]:
    """A daemon with the configuration below the heading ONE_GATEWAY, or below the test's own heading."""
    text = pages.block(PAGE, getattr(request, "param", ONE_GATEWAY), "yaml")
    group = f"group: {grp.getgrgid(os.getgid()).gr_name}"
    with running(tmp_path, node, text, {SOCKET: cluster.egress, "group: kube": group}) as daemon:
        yield daemon


@pytest.mark.usefixtures("daemon")
@BOTH_WAYS
@pytest.mark.newer_kubectl
def test_kubectl_streams_by_either_upgrade(cluster: Cluster) -> None:
    stream(cluster.kubectl, by="SPDY")
    stream(cluster.by(NEWER_KUBECTL), by="WebSocket")
    follow_logs(cluster.kubectl, BY_POD, "web")


def test_kubectl_streams_to_nodes_at_a_site(cluster: Cluster, node: Node, tmp_path: Path) -> None:
    """The node's machine dials the bastion. The routes of the page use a site in place of the gateway."""
    files = SshServerFiles(tmp_path / "ssh")
    page = YAML(typ="safe").load(pages.block(PAGE, ONE_GATEWAY, "yaml"))
    routes = [{**route, "gateway": SITE, "entries": ["egress"]} for route in page["routes"]]
    sections: dict[str, object] = {
        "entries": {"egress": {"listen": f"unix:{cluster.egress}"}},
        "routes": routes,
        "ssh_server": {
            **files.sections(),
            "listen": f"0.0.0.0:{files.listen.port}",
            "allow_remote": True,
        },
        "sites": {SITE: {**files.authorized(SITE), "permit": ["**:*", "0.0.0.0/0:*"]}},
    }
    via = Endpoint(node.ours, files.listen.port)
    command = files.command(SITE, "-N", "-T", "-R", f"{SITE}:1080", via=via)
    with (
        Daemon(tmp_path / "daemon", gateways={}, clusters={}, sections=sections) as daemon,
        subprocess.Popen([*node.command, *command], stdin=subprocess.DEVNULL) as site,
    ):
        try:
            daemon.wait_for("the site", lambda: daemon.metric("kubemux_site_connected", site=SITE) == 1)
            stream(cluster.kubectl, by="SPDY")
            call_services(cluster, daemon)
        finally:
            site.kill()


@pytest.mark.newer_kubectl
def test_an_api_server_on_another_machine_connects_by_tls(
    etcd: str, cluster: Cluster, node: Node, tmp_path: Path
) -> None:
    """The test starts a second API server of the same cluster, so the objects exist already."""
    authority = Authority(tmp_path / "egress-pki")
    entry = authority.issue("egress", dns=("localhost",))
    client = authority.issue("egress-client", dns=("apiserver.example.com",))
    port = free_port()
    apiserver = ApiServer(tmp_path / "apiserver", beside=cluster.apiserver)
    apiserver.folder.mkdir()
    places: Places = {
        "bastion.example.com:3129": f"localhost:{port}",
        "/etc/kubernetes/pki/egress-ca.crt": authority.ca.cert,
        "/etc/kubernetes/pki/egress-client.crt": client.cert,
        "/etc/kubernetes/pki/egress-client.key": client.key,
        "0.0.0.0:3129": f"127.0.0.1:{port}",
        "/etc/kubemux/entries/egress.crt": entry.cert,
        "/etc/kubemux/entries/egress.key": entry.key,
        "/etc/kubemux/entries/egress-clients.crt": authority.ca.cert,
    }
    way, entries = (pages.block(PAGE, heading, "yaml") for heading in (ONE_GATEWAY, ENTRY_FOR_TLS))
    before, _, after = way.partition("entries:")
    text = before + entries + after[after.index("routes:") :]
    words = flags(apiserver, heading=SELECTOR_FOR_TLS, places=places)
    with running(tmp_path, node, text, places), apiserver.run(etcd, *words):
        far = Cluster(apiserver, node, cluster.egress)
        stream(far.kubectl, by="SPDY")
        stream(far.by(NEWER_KUBECTL), by="WebSocket")


def test_a_node_with_another_host_key_is_refused(cluster: Cluster, node: Node, tmp_path: Path) -> None:
    """The node's host key is verified. The API server's own tunnels did not do that."""
    text = pages.block(PAGE, OWN_SSHD, "yaml")
    places: Places = {SOCKET: cluster.egress, "    group: kube\n": ""}
    with (
        running(tmp_path, node, text, places, host_key=new_key(tmp_path / "other")) as daemon,
        pytest.raises(AssertionError, match=rf"503 kubemux: {NODE}: link_down \(.*host_key_changed"),
    ):
        cluster.kubectl.said("exec", "web", "--", "echo", "hello")
    assert {one["reason"] for one in daemon.events("gateway dial failed")} == {"host_key_changed"}


def create_service(cluster: Cluster) -> None:
    """Create a Service whose address the stand-in itself serves."""
    ports = [{"port": 443}]
    metadata = {"name": SERVICE, "namespace": "default"}
    spec = {"clusterIP": nodes.SERVICE_IP, "ports": ports}
    subset = {"addresses": [{"ip": nodes.POD_IP}], "ports": ports}
    cluster.create(
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec},
        {"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata, "subsets": [subset]},
    )


def test_a_webhook_and_an_aggregated_api_are_called(cluster: Cluster, daemon: Daemon) -> None:
    call_services(cluster, daemon)


def call_services(cluster: Cluster, daemon: Daemon) -> None:
    """Make the API server call a webhook and an aggregated API behind a Service."""
    authority = base64.b64encode(cluster.apiserver.ca_file.read_bytes()).decode()
    service = {"namespace": "default", "name": SERVICE}
    hook = {
        "name": "hook.example.com",
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "clientConfig": {"service": service, "caBundle": authority},
        "rules": [
            {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}
        ],
    }
    spec = {
        "group": GROUP,
        "version": "v1",
        "groupPriorityMinimum": 1000,
        "versionPriority": 10,
        "service": service,
        "caBundle": authority,
    }
    create_service(cluster)
    hooks = "ValidatingWebhookConfiguration"
    try:
        cluster.create(
            {
                "apiVersion": "admissionregistration.k8s.io/v1",
                "kind": hooks,
                "metadata": {"name": "hook"},
                "webhooks": [hook],
            },
            {
                "apiVersion": "apiregistration.k8s.io/v1",
                "kind": "APIService",
                "metadata": {"name": f"v1.{GROUP}"},
                "spec": spec,
            },
        )

        wanted = ("create", "configmap", "wanted", "--dry-run=server")
        daemon.wait_for(
            "the webhook",
            lambda: "the webhook has been asked" in cluster.kubectl.attempt(*wanted),
            seconds=60,
        )
        path = f"/apis/{GROUP}/v1/asked"
        asked = ("get", "--raw", path)
        daemon.wait_for(
            "the aggregated API", lambda: f'"path": "{path}"' in cluster.kubectl.attempt(*asked), seconds=60
        )
    finally:
        cluster.kubectl.said("delete", "--ignore-not-found", hooks, "hook")
        cluster.kubectl.said("delete", "--ignore-not-found", "apiservice", f"v1.{GROUP}")
        cluster.kubectl.said("delete", "service", SERVICE)


@BOTH_WAYS
def test_a_lost_link_ends_clients_and_its_reason_reaches_the_next(
    cluster: Cluster, daemon: Daemon, node: Node
) -> None:
    hello = ("exec", "web", "--", "echo", "hello")
    with (
        cluster.kubectl.at_terminal("exec", "-it", "web", "--", "sh") as terminal,
        cluster.kubectl.started("logs", "-f", "web") as logs,
    ):
        terminal.expect(b"$ ")
        assert next_line(logs) == "started\n"
        node.stop()
        terminal.end()
        logs.wait(timeout=SECONDS)

    def cut() -> list[object]:
        closed = daemon.events("connection closed")
        return [one["asked"] for one in closed if (one["entry"], one["reason"]) == ("egress", "link_lost")]

    daemon.wait_for("both are in the log", lambda: cut().count(f"{NODE}:10250") >= 2)
    with pytest.raises(AssertionError, match=f"503 kubemux: {NODE}: link_down \\("):
        cluster.kubectl.said(*hello)
    node.start()
    daemon.wait_for(
        "the next command works", lambda: cluster.kubectl.attempt(*hello) == "hello\n", seconds=60
    )


def test_kubectl_shows_the_message_of_each_refusal(cluster: Cluster, daemon: Daemon, node: Node) -> None:
    """The real kube-apiserver behaves like its stand-in in the fault matrix."""
    hello = ("exec", "web", "--", "echo", "hello")
    assert cluster.kubectl.said(*hello) == "hello\n"
    nobody_listens = cluster.kubectl.attempt("get", "--raw", BY_POD.replace("8080", "8081"))
    assert f"502 kubemux: {nodes.POD_IP}: channel_refused (" in nobody_listens

    def is_told(said: str) -> bool:
        return said in cluster.kubectl.attempt(*hello)

    good = daemon.config.read_text()
    content = json.loads(good)
    for route in content["routes"]:
        route["allow"] = ["uid:4294967294"]
    denied = f"403 kubemux: {NODE}: denied (uid {os.getuid()} is not in allow)"
    for text, said in ((json.dumps(content), denied), (good, "hello\n")):
        daemon.config.write_text(text)
        daemon.signal(signal.SIGHUP)
        daemon.wait_for(said, partial(is_told, said))

    # The link is lost before the answer.
    def clients() -> int:
        entries = {one["name"]: one for one in json.loads(daemon.get("/status")[1])["entries"]}
        return int(entries["egress"]["connections_total"])

    before = clients()
    node.pause()
    with cluster.kubectl.started(*hello) as waits:
        daemon.wait_for("it waits", lambda: clients() > before)
        node.stop()
        _, said = waits.communicate(timeout=SECONDS)
    assert f"503 kubemux: {NODE}: link_down (" in said
