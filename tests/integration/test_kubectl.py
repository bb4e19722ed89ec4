"""Real kubectl, through the daemon and a real sshd, against a real kube-apiserver whose certificate does not
name 127.0.0.1.
"""

from __future__ import annotations

import http.client
import json
import operator
import os
import signal
import ssl
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest

from tests.integration.conftest import cluster, gateway, mapped
from tests.support.apiserver import ApiServer, asset
from tests.support.daemon import Daemon
from tests.support.etcd import put
from tests.support.patient import HALF_CLOSES
from tests.support.ports import free_port
from tests.support.sshd import Sshd

pytestmark = [pytest.mark.apiserver, pytest.mark.sshd]


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def daemon(sshd: Sshd, apiserver: ApiServer, port: int, tmp_path: Path) -> Iterator[Daemon]:
    clusters = {"prod": cluster(port, apiserver.endpoint, ca=apiserver.ca_file)}
    gateways = {"edge": gateway(sshd, connect_timeout="60s")}  # for two hundred channels at once, too
    with Daemon(tmp_path / "daemon", gateways=gateways, clusters=clusters) as daemon:
        daemon.wait_up("prod")
        yield daemon


@pytest.fixture
def kubeconfig(apiserver: ApiServer, tmp_path: Path, port: int) -> Path:
    return mapped(apiserver, tmp_path, port)


def test_namespaces_are_made_read_changed_and_deleted(
    daemon: Daemon, apiserver: ApiServer, kubeconfig: Path
) -> None:
    assert "default" in apiserver.kubectl("get", "ns", "-o", "name", kubeconfig=kubeconfig)
    apiserver.kubectl("create", "configmap", "made", "--from-literal=a=1", kubeconfig=kubeconfig)
    changed = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "made"}, "data": {"a": "2"}}
    apiserver.kubectl("apply", "-f", "-", kubeconfig=kubeconfig, stdin=json.dumps(changed))
    assert apiserver.kubectl("get", "cm", "made", "-o", "jsonpath={.data.a}", kubeconfig=kubeconfig) == "2"
    apiserver.kubectl("delete", "cm", "made", kubeconfig=kubeconfig)
    assert "made" not in apiserver.kubectl("get", "cm", "-o", "name", kubeconfig=kubeconfig)
    assert daemon.metric("kubemux_bytes_total", cluster="prod", direction="to_cluster") > 1000
    assert daemon.metric("kubemux_bytes_total", cluster="prod", direction="from_cluster") > 1000


def test_five_thousand_configmaps_are_listed_whole(
    daemon: Daemon, apiserver: ApiServer, etcd: str, kubeconfig: Path
) -> None:
    """The test puts them into etcd directly: to create each through the API server takes 13 s of CPU."""
    put(etcd, {f"{apiserver.prefix}/configmaps/default/many-{n}": configmap(n) for n in range(5000)})
    listed = json.loads(apiserver.kubectl("get", "cm", "-l", "set=many", "-o", "json", kubeconfig=kubeconfig))
    assert {item["metadata"]["name"]: item["data"]["n"] for item in listed["items"]} == {
        f"many-{n}": f"{n:0500}" for n in range(5000)
    }
    # Gzipped.
    assert daemon.metric("kubemux_bytes_total", cluster="prod", direction="from_cluster") > 5000 * 20


def configmap(n: int) -> dict[str, object]:
    metadata = {"name": f"many-{n}", "namespace": "default", "uid": str(uuid4()), "labels": {"set": "many"}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"n": f"{n:0500}"}}


def test_two_hundred_parallel_requests_are_answered(daemon: Daemon, apiserver: ApiServer, port: int) -> None:
    """Each on a connection of its own, and no connection is closed before the last answer. kubectl cannot do
    that: two hundred of them never run at the same time.
    """
    context = ssl.create_default_context(cafile=apiserver.ca_file)
    context.check_hostname = False  # its certificate does not name 127.0.0.1, on purpose
    admin = apiserver.certificates.admin
    context.load_cert_chain(admin.cert, admin.key)
    connections = [
        http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=60) for _ in range(200)
    ]

    def asked(connection: http.client.HTTPSConnection) -> bytes:
        connection.request("GET", "/readyz")
        return connection.getresponse().read()

    try:
        with ThreadPoolExecutor(len(connections)) as pool:
            assert list(pool.map(asked, connections)) == [b"ok"] * 200
        assert daemon.metric("kubemux_connections_active", cluster="prod") >= 200
    finally:
        for connection in connections:
            connection.close()


def test_a_watch_goes_on_after_its_link_was_lost(
    daemon: Daemon, sshd: Sshd, apiserver: ApiServer, kubeconfig: Path, tmp_path: Path
) -> None:
    """kubectl starts a new watch when the connection is reset. So the reset has to come at once, and the new
    watch has to be served.
    """
    seen: list[str] = []
    arrived = threading.Condition()
    command = [
        str(asset("kubectl")),
        "--kubeconfig",
        str(kubeconfig),
        "get",
        "cm",
        "--watch",
        "-o",
        "name",
        "-l",
        "watched=yes",
    ]
    # kubectl's plain watch ends with its connection; an informer of a controller starts a new one
    script = 'while true; do "$@"; done'
    with subprocess.Popen(
        ["/bin/sh", "-c", script, "sh", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as watch:

        def read() -> None:
            assert watch.stdout
            for line in watch.stdout:
                with arrived:
                    seen.append(line.strip())
                    arrived.notify_all()

        reader = threading.Thread(target=read)
        reader.start()
        try:
            direct = apiserver.kubeconfig(tmp_path / "direct")
            for n, fault in enumerate((None, sshd.restart)):
                if fault:
                    fault()
                    daemon.wait_for(
                        "a reconnect",
                        lambda: daemon.metric("kubemux_gateway_reconnects_total", gateway="edge") >= 1,
                    )
                apiserver.kubectl("create", "cm", f"watched-{n}", kubeconfig=direct)
                apiserver.kubectl("label", "cm", f"watched-{n}", "watched=yes", kubeconfig=direct)
                with arrived:
                    wanted = f"configmap/watched-{n}"
                    came = arrived.wait_for(partial(operator.contains, seen, wanted), timeout=60)
                    assert came, (seen, daemon.log())
        finally:
            os.killpg(watch.pid, signal.SIGKILL)  # the shell and the kubectl that it may just be starting
            watch.wait()
            reader.join()
    assert daemon.events("link lost")


def test_sshd_killed_and_started_again_is_down_then_up(daemon: Daemon, sshd: Sshd) -> None:
    sshd.stop()
    daemon.wait_up("prod", up=False)

    def is_told() -> bool:
        status = json.loads(daemon.get("/status")[1])
        told = status["gateways"][0]["state"], status["clusters"][0]["reason"]
        return bool(told == ("down", "link_down"))

    daemon.wait_for("down, because there is no link", is_told)
    sshd.start()
    daemon.wait_up("prod")
    assert daemon.metric("kubemux_gateway_reconnects_total", gateway="edge") >= 1
    assert daemon.metric("kubemux_gateway_connected", gateway="edge") == 1


def test_a_watch_ends_without_an_error_when_the_daemon_stops(
    sshd: Sshd, apiserver: ApiServer, port: int, tmp_path: Path
) -> None:
    """After a drain the daemon half-closes what is left. The API server then ends the watch, and kubectl
    reports no error.
    """
    daemon = Daemon(
        tmp_path / "daemon",
        gateways={"edge": gateway(sshd)},
        clusters={"prod": cluster(port, apiserver.endpoint, ca=apiserver.ca_file)},
        sections={"limits": {"drain_timeout": "100ms"}},
        wrapper=HALF_CLOSES,
    )
    command = ["--kubeconfig", str(mapped(apiserver, tmp_path, port)), "get", "ns", "--watch", "-o", "name"]
    with daemon:
        daemon.wait_up("prod")
        watch = subprocess.Popen(
            [asset("kubectl"), *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert watch.stdout is not None
        assert watch.stdout.readline().startswith("namespace/")
    _, complaints = watch.communicate(timeout=60)
    assert (watch.returncode, complaints) == (0, "")
