"""SkyPilot's own check of a cluster that it reaches through the proxy entry, by an exported kubeconfig.

`make try-skypilot` installs SkyPilot, which takes half a gigabyte, and runs this. `make test` does not.
"""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from proxy.runtime.endpoint import Endpoint
from tests.integration.conftest import gateway
from tests.integration.recipes import PAGE, Desk
from tests.support import pages
from tests.support.apiserver import ApiServer, asset
from tests.support.daemon import ROOT, Daemon
from tests.support.ports import free_port
from tests.support.sshd import Sshd

pytestmark = [pytest.mark.apiserver, pytest.mark.sshd, pytest.mark.timeout(600)]

SKY: Final = ROOT / ".tools" / "skypilot" / "bin" / "sky"
SKY_PORT: Final = 46580
"""The address of SkyPilot's own API server."""
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture
def desk(apiserver: ApiServer, sshd: Sshd, tmp_path: Path) -> Iterator[Desk]:
    """A desk with two contexts for the same cluster; SkyPilot may use only one of them."""
    entry = Endpoint("127.0.0.1", free_port())
    section = {
        "gateway": "edge",
        "api_servers": [str(apiserver.endpoint)],
        "tls": {"server_name": "kubernetes", "ca_file": str(apiserver.ca_file)},
    }
    with Daemon(
        tmp_path / "daemon",
        gateways={"edge": gateway(sshd)},
        clusters={"prod-eu": section, "other": section},
        sections={"entries": {"proxy": {"listen": str(entry)}}},
    ) as daemon:
        daemon.wait_up("prod-eu")
        programs = {
            "kubemux": f"{sys.executable} -m proxy",
            "sky": str(SKY),
            "kubectl": str(asset("kubectl")),
        }
        desk = Desk(
            tmp_path, entry, programs=programs, KUBEMUX_CONFIG=str(daemon.config), PYTHONPATH=str(ROOT)
        )
        own, exported = desk.home / "own", desk.home / ".kube" / "config"
        apiserver.kubeconfig(own, context="prod-eu")
        context = "set-context other --cluster=prod-eu --user=prod-eu"
        desk.said(f"kubectl config --kubeconfig {own} {context}")
        desk.said(f"kubemux kubeconfig export --base {own} --proxy proxy --output {exported}")
        yield desk


def test_sky_check_accepts_the_cluster(desk: Desk) -> None:
    with socket.socket() as taken:
        # Otherwise `sky` would use that server, and the test would stop it.
        assert taken.connect_ex(("127.0.0.1", SKY_PORT)), "there is a SkyPilot server already: sky api stop"
    settings = desk.home / ".sky" / "config.yaml"
    settings.parent.mkdir()
    settings.write_text(pages.block(PAGE, "SkyPilot", "yaml"))
    try:
        done = desk.typed(pages.shell(PAGE, "SkyPilot"), seconds=300)
        said = _COLOUR.sub("", done.stdout.decode())
        assert "prod-eu: enabled" in said, said + done.stderr.decode()
        assert "other" not in said
    finally:
        desk.said("sky api stop")
