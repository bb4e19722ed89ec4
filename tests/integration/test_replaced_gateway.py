"""A gateway that a reload leads to another server, while clients wait for its first link."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.jumping import jumping
from tests.integration.running import changed
from tests.integration.test_ssh_users import BANNER, Clients

pytestmark = [pytest.mark.sshd]


@pytest.mark.parametrize("dial", ["always", "on_demand"])
def test_clients_that_wait_get_a_link_of_the_new_gateway(tmp_path: Path, dial: str) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        jumping(tmp_path, limits={"hold_timeout": "5m", "drain_timeout": "500ms"}) as one,
        ExitStack() as stack,
    ):
        daemon = one.daemon
        elsewhere = {"port": silent.getsockname()[1], "dial": dial, "connect_timeout": "5m"}
        changed(daemon, lambda config: config["gateways"]["edge"].update(elsewhere))
        waiting = [Clients(one, stack).start("-W", f"node-{name}:22", "bastion") for name in "ab"]
        active = "kubemux_entry_connections_active"
        daemon.wait_for("they wait", lambda: daemon.metric(active, entry="ssh") == 2)
        changed(daemon, lambda config: config["gateways"]["edge"].update(port=one.sshd.port))
        for client in waiting:
            assert client.stdout
            assert client.stdout.read(len(BANNER)) == BANNER
