from __future__ import annotations

import stat
from pathlib import Path

import pytest

from proxy.demo.stage import prepare
from proxy.demo.welcome import welcome
from proxy.runtime.endpoint import Local


def test_files_are_private_and_no_socket_stays_bound(tmp_path: Path) -> None:
    with prepare(tmp_path) as stage:
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
        assert {
            "config.yaml",
            "kubeconfig",
            "id_ed25519",
            "known_hosts",
            "berlin.crt",
            "berlin.server",
        } <= modes.keys()
        assert set(modes.values()) == {0o600}
        listening: set[Local | None] = {stage.config.admin.listen}
        listening |= {cluster.listen for cluster in stage.config.clusters.values()}
        listening |= {entry.listen for entry in stage.config.entries.values()}
        assert listening == set(stage.daemon_sockets)
    assert all(sock.fileno() == -1 for sock in stage.daemon_sockets.values())
    assert stage.ssh_socket.fileno() == -1


def test_every_address_is_on_loopback(tmp_path: Path) -> None:
    with prepare(tmp_path) as stage:
        socks = [
            stage.ssh_socket,
            *stage.daemon_sockets.values(),
            *(cluster.sock for cluster in stage.clusters),
        ]
        assert {sock.getsockname()[0] for sock in socks} == {"127.0.0.1"}


def test_kubeconfig_verifies_tls_and_holds_the_token_once_per_cluster(tmp_path: Path) -> None:
    with prepare(tmp_path) as stage:
        text = stage.kubeconfig.read_text()
    assert "insecure-skip-tls-verify" not in text
    assert text.count("tls-server-name: kubernetes") == 2
    assert stage.token in text
    assert stage.token not in repr(stage)


@pytest.mark.parametrize("there", [True, False])
def test_the_text_says_whether_kubectl_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    monkeypatch.setattr("shutil.which", lambda program: f"/usr/bin/{program}" if there else None)
    with prepare(tmp_path) as stage:
        text = welcome(stage)
    assert ("kubectl is not installed here" in text) is not there
    assert stage.token not in text
