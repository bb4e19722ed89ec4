"""What the integration tests share: a gateway's section for an sshd, a cluster's for an API server, a
kubeconfig for the port.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from proxy.runtime.endpoint import Endpoint
from proxy.ssh.planes import DATA_PLANE
from tests.support.apiserver import ApiServer
from tests.support.daemon import Sections
from tests.support.sshd import Sshd

BOTH_PLANES = {
    "test_byte_path",
    "test_jump",
    "test_make_before_break",
    "test_remote_entry",
    "test_site_kubectl",
    "test_site_links",
    "test_sites",
    "test_stuck",
    "test_update_host_keys",
    "test_watch_through_reloads",
}
"""Run the test on both data planes; if KUBEMUX_DATA_PLANE is set for the whole run, only on that one."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.module.__name__.rpartition(".")[2] in BOTH_PLANES and DATA_PLANE not in os.environ:
        metafunc.parametrize("data_plane", ["native", "asyncssh"], indirect=True)


# First, so that it is set before the daemon starts, which inherits the variable.
@pytest.fixture(autouse=True)
def data_plane(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the daemon's data plane."""
    if hasattr(request, "param"):
        monkeypatch.setenv(DATA_PLANE, request.param)


def gateway(sshd: Sshd, **more: object) -> Sections:
    """A gateway's section of the configuration, for this sshd."""
    section: Sections = {
        "host": sshd.host,
        "port": sshd.port,
        "user": sshd.user,
        "identity_files": [str(sshd.identity)],
        "known_hosts": [str(sshd.known_hosts())],
    }
    return {key: value for key, value in {**section, **more}.items() if value is not None}


def cluster(
    port: int, *api_servers: Endpoint, via: str = "edge", ca: Path | None = None, **more: object
) -> Sections:
    """A cluster's section of the configuration; kubemux listens for it on `port`."""
    tls = {"server_name": "kubernetes"} | ({"ca_file": str(ca)} if ca is not None else {})
    return {
        "gateway": via,
        "listen": f"127.0.0.1:{port}",
        "api_servers": [str(server) for server in api_servers],
        "tls": tls,
        "probe": {"interval": "500ms", "timeout": "2s"},
        **more,
    }


def mapped(apiserver: ApiServer, folder: Path, port: int) -> Path:
    """An administrator's kubeconfig that points at the mapped port."""
    return apiserver.kubeconfig(folder / f"kubeconfig-{port}", server=f"https://127.0.0.1:{port}")
