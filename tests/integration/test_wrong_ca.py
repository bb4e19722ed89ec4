"""A probe with a wrong ca_file: status still says that the API server is reached, as clients trust it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from proxy.runtime.endpoint import Endpoint
from tests.health.forge import TlsServer, authority, make
from tests.health.test_as_kubectl import kubectl
from tests.health.verdicts import LEAF, NAME
from tests.integration.conftest import cluster
from tests.support.daemon import Daemon
from tests.support.ports import free_port

PROBE = {"interval": "100ms", "timeout": "1m", "threshold": 1}


@pytest.mark.kubectl
def test_with_a_wrong_ca_file_status_shows_reached_but_not_trusted(tmp_path: Path) -> None:
    root, other = make(authority("root")), make(authority("other"))
    (right := tmp_path / "right.crt").write_bytes(root.pem)
    (wrong := tmp_path / "wrong.crt").write_bytes(other.pem)
    port = free_port()
    with TlsServer(tmp_path, [make(LEAF, root)]).running() as endpoint:
        clusters = {"prod": cluster(port, endpoint, via="direct", ca=wrong, probe=PROBE)}
        with Daemon(tmp_path / "daemon", gateways={}, clusters=clusters) as daemon:
            daemon.wait_up("prod", up=False)
            assert kubectl(tmp_path, Endpoint("127.0.0.1", port), right, NAME) == ""
            [told] = json.loads(daemon.get("/status")[1])["clusters"]
    assert (told["state"], told["reason"]) == ("down", "tls_untrusted")
    words = (
        f"reached, but the certificate of {endpoint} is not trusted by tls.ca_file {wrong}: it is "
        "signed by CN=root"
    )
    assert told["message"].startswith(words)
    assert told["hint"].startswith("clients that trust another CA are served all the same")
