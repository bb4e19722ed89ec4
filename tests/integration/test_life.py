"""End to end: two gateways and two real API servers, kubeconfigs by import and export, and a reload while
kubectl watches.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.integration.conftest import cluster, gateway
from tests.support.apiserver import ApiServer
from tests.support.daemon import Daemon
from tests.support.kubemux import run
from tests.support.patient import HALF_CLOSES
from tests.support.ports import free_port
from tests.support.sshd import SshdFactory

pytestmark = [pytest.mark.apiserver, pytest.mark.sshd]


def kubemux(*arguments: str | Path, code: int = 0) -> str:
    """Run a command and return what it printed."""
    done = run(*arguments, environment={"COLUMNS": "140", "NO_COLOR": "1"})
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def test_contexts_are_imported_served_and_exported(
    sshd_factory: SshdFactory, apiserver: ApiServer, second_apiserver: ApiServer, tmp_path: Path
) -> None:
    """The steps of a new user: import contexts, start the daemon, export contexts, use kubectl through two
    gateways.
    """
    arn = "arn:aws:eks:eu-west-1:1:cluster/prod"
    one = apiserver.kubeconfig(tmp_path / "one", context=arn)
    two = second_apiserver.kubeconfig(tmp_path / "two", context="kubernetes-admin@kubernetes")
    gateways = {"eu": gateway(sshd_factory()), "us": gateway(sshd_factory())}
    daemon = Daemon(tmp_path / "daemon", gateways=gateways, clusters={}, executes=True)
    config = ["--config", str(daemon.config)]
    kubemux("kubeconfig", "import", *config, "--kubeconfig", one, "--context", arn, "--gateway", "eu")
    kubemux(
        "kubeconfig",
        "import",
        *config,
        "--kubeconfig",
        two,
        "--context",
        "kubernetes-admin@kubernetes",
        "--gateway",
        "us",
    )
    kubemux("check", *config)
    # Ports that are free on this machine.
    text = daemon.config.read_text()
    for given in ("16443", "16444"):
        text = text.replace(f"127.0.0.1:{given}", f"127.0.0.1:{free_port()}")
    daemon.config.write_text(text)
    base = tmp_path / "base"
    env = {"KUBECONFIG": f"{one}:{two}"}
    flat = subprocess.run(
        ["kubectl", "config", "view", "--flatten", "--raw"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | env,
    )
    base.touch(mode=0o600)
    base.write_text(flat.stdout)
    exported = tmp_path / "exported"
    with daemon:
        daemon.wait_up(arn, "kubernetes-admin@kubernetes")
        kubemux("kubeconfig", "export", *config, "--base", base, "--output", exported)
        assert exported.stat().st_mode & 0o777 == 0o600
        assert "insecure" not in exported.read_text()
        for context, server in ((arn, apiserver), ("kubernetes-admin@kubernetes", second_apiserver)):
            assert "namespace/default" in server.kubectl(
                "--context", context, "get", "ns", "-o", "name", kubeconfig=exported
            )
        shown = kubemux("status", *config)
        assert arn in shown
        assert "up" in shown
        probed = json.loads(kubemux("probe", arn, "--json", *config))
        assert [step["verdict"] for step in probed["steps"]] == ["ok"] * 6
        assert probed["alive"]


def test_a_reload_touches_nothing_that_is_equal(
    sshd_factory: SshdFactory, apiserver: ApiServer, tmp_path: Path
) -> None:
    """A client connection lives through reloads that add, change and remove other clusters and gateways, and
    a bad file.
    """
    kept, changing, added, moved = (free_port() for _ in range(4))
    eu, us = gateway(sshd_factory()), gateway(sshd_factory())
    servers = {"kept": cluster(kept, apiserver.endpoint, via="eu", ca=apiserver.ca_file)}
    servers["changing"] = cluster(changing, apiserver.endpoint, via="us", ca=apiserver.ca_file)
    with Daemon(
        tmp_path / "daemon",
        gateways={"eu": eu, "us": us},
        clusters=dict(servers),
        expected_errors={"reload rejected"},
    ) as daemon:
        daemon.wait_up("kept", "changing")
        config = ["--config", str(daemon.config)]
        with socket.create_connection(("127.0.0.1", kept)) as client:
            daemon.wait_for(
                "the client is relayed",
                lambda: daemon.metric("kubemux_connections_active", cluster="kept") == 1,
            )
            servers["changing"] = cluster(moved, apiserver.endpoint, via="us", ca=apiserver.ca_file)
            servers["added"] = cluster(added, apiserver.endpoint, via="us", ca=apiserver.ca_file)
            daemon.configure(gateways={"eu": eu, "us": {**us, "connections": 1}}, clusters=dict(servers))
            assert "cluster added" in kubemux("reload", *config)
            daemon.wait_up("kept", "changing", "added")
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", changing))
            daemon.configure(gateways={"eu": eu}, clusters={"kept": servers["kept"]})
            daemon.signal(signal.SIGHUP)
            daemon.wait_for("us is gone", lambda: daemon.metric("kubemux_gateway_links", gateway="us") == 0)
            assert 'cluster="added"' not in daemon.get("/metrics")[1]
            daemon.configure(
                gateways={"eu": eu}, clusters={"kept": servers["kept"], "broken": {"gateway": "nowhere"}}
            )
            kubemux("reload", *config, code=78)
            assert daemon.metric("kubemux_config_reloads_total", result="rejected") == 1
            assert daemon.metric("kubemux_config_reloads_total", result="ok") == 2
            assert daemon.metric("kubemux_connections_active", cluster="kept") == 1
            client.shutdown(socket.SHUT_WR)
            assert client.recv(100) == b""
        daemon.wait_for("its end in the log", lambda: bool(daemon.events("connection closed")))
        assert [event["reason"] for event in daemon.events("connection closed")] == ["client_closed"]


def test_drain_ends_one_cluster_and_a_reload_opens_it_again(
    sshd_factory: SshdFactory, apiserver: ApiServer, tmp_path: Path
) -> None:
    port, other = free_port(), free_port()
    clusters = {
        name: cluster(number, apiserver.endpoint, ca=apiserver.ca_file)
        for name, number in (("one", port), ("two", other))
    }
    sections = {"limits": {"drain_timeout": "200ms"}}
    with Daemon(
        tmp_path / "daemon",
        gateways={"edge": gateway(sshd_factory())},
        clusters=dict(clusters),
        sections=dict(sections),
        wrapper=HALF_CLOSES,
    ) as daemon:
        daemon.wait_up("one", "two")
        assert len(daemon.events("taking orders")) == 1, "the log says where the daemon takes orders"
        config = ["--config", str(daemon.config)]
        with socket.create_connection(("127.0.0.1", port)) as client:
            daemon.wait_for(
                "the client is relayed",
                lambda: daemon.metric("kubemux_connections_active", cluster="one") == 1,
            )
            assert kubemux("drain", "one", *config) == "one: drained, 1 connection cut\n"
            assert client.recv(1) == b"", "the API server got the half-close, and ended the watch"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        socket.create_connection(("127.0.0.1", other)).close()
        assert daemon.get("/readyz")[0] == 200
        kubemux("reload", *config)
        socket.create_connection(("127.0.0.1", port)).close()
