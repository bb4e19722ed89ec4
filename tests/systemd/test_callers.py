"""How a service identifies its clients under the shipped unit's hardening and user.

Instead of kubemux, a small server runs, which reports the identity that `proxy.entries` finds for each
client.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, cast

import pytest

from tests.support.files import whole_lines
from tests.systemd.machine import Machine

pytestmark = pytest.mark.systemd

USERS: Final = "alice:*:1002:1002::/:/bin/sh\nbob:*:1003:1003::/:/bin/sh\n"
GROUPS: Final = "alice:x:1002:\nbob:x:1003:\nsre:x:27:alice\n"

# At the socket `late` it waits until the client has closed. Each client sends its name in the test.
_SERVER: Final = """
import asyncio, json, os, socket
from pathlib import Path
from proxy.entries.callers import hidden, uid_of
from proxy.entries.identities import Identities
from proxy.runtime import systemd

Path("/run/kubemux-entries/everybody.sock").unlink(missing_ok=True)
everybody = socket.socket(socket.AF_UNIX)
everybody.bind("/run/kubemux-entries/everybody.sock")
os.chmod("/run/kubemux-entries/everybody.sock", 0o666)
everybody.listen()
for_a_group = socket.socket(fileno=3)
late = socket.create_server(("127.0.0.1", 10001))
servers = [everybody, for_a_group, late, socket.create_server(("127.0.0.1", 10000)),
           socket.create_server(("::1", 10000), family=socket.AF_INET6)]

async def serve(server, identities):
    loop = asyncio.get_running_loop()
    server.setblocking(False)
    while True:
        client, _ = await loop.sock_accept(server)
        uid = None if server is late else uid_of(client)
        name = await loop.sock_recv(client, 100)
        if server is late:
            assert await loop.sock_recv(client, 1) == b""
            uid = uid_of(client)
        print(json.dumps([name.decode(), uid, sorted(await identities.of(uid))]), flush=True)
        client.close()

async def main():
    print(json.dumps(["hidden", hidden(tcp=True)]), flush=True)
    identities = Identities()
    systemd.notify("READY=1")
    await asyncio.gather(*(serve(server, identities) for server in servers))

asyncio.run(main())
"""
_UNIT: Final = """
[Service]
ExecStart=
ExecStart=/bin/sh /opt/kubemux/server.sh
WatchdogSec=0
"""
_SOCKET: Final = """
[Unit]
DefaultDependencies=no
[Socket]
ListenStream=/run/kubemux-entries/group.sock
SocketMode=0660
SocketGroup=sre
Service=kubemux.service
"""
_CLIENT: Final = """
import socket, sys
where, name = sys.argv[1:]
if where.startswith("/"):
    client = socket.socket(socket.AF_UNIX)
    client.connect(where)
else:
    client = socket.create_connection((where, 10000), timeout=60)
client.sendall(name.encode())
client.recv(1)
"""
_SENDS_AND_CLOSES: Final = """
import socket, sys
with socket.create_connection(("127.0.0.1", 10001), timeout=60) as client:
    client.sendall(sys.argv[1].encode())
"""


_HIDES: Final = {
    "PrivateUsers=yes": "PrivateUsers=",
    "PrivateUsers=no\nRestrictAddressFamilies=~AF_NETLINK": "AF_NETLINK in RestrictAddressFamilies=",
}
"""By a line of a drop-in: the remedy in the message."""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    etc, there = tmp_path / "etc", tmp_path / "opt/kubemux"
    for name, text in (("passwd", USERS), ("group", GROUPS)):
        (etc / name).write_text((etc / name).read_text() + text)
    (there / "server.py").write_text(_SERVER)
    python = f"/opt/python/bin/python3.{sys.version_info.minor}"
    paths = "LD_LIBRARY_PATH=/opt/python/lib PYTHONPATH=/opt/checkout:/opt/site PYTHONDONTWRITEBYTECODE=1"
    (there / "server.sh").write_text(f"export {paths}\nexec {python} /opt/kubemux/server.py\n")
    machine.drop_in("server", _UNIT)
    (machine.units / "group.socket").write_text(_SOCKET)
    with machine:
        machine.run("install", "-d", "-m", "755", "/run/kubemux-entries")
        machine.systemctl("start", "group.socket", "kubemux.service")
        yield machine


def run_as(user: str, *command: str) -> list[str]:
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", *command]


def said(machine: Machine) -> dict[str, list[object]]:
    """By the client's name: the identity that the server reports."""
    lines = [json.loads(line) for line in whole_lines(machine.log) if line.startswith("[")]
    return {line[0]: line[1:] for line in lines}


def test_the_uid_of_clients_is_known_under_the_shipped_unit(machine: Machine) -> None:
    """Three users and a group, on both kinds of socket; and clients that must not be identified."""
    everybody, group = "/run/kubemux-entries/everybody.sock", "/run/kubemux-entries/group.sock"
    for user in ("alice", "bob", "root"):
        for where in ("127.0.0.1", "::1", everybody):
            machine.run(*run_as(user, "python3", "-c", _CLIENT, where, f"{user} by {where}"))
        machine.run(*run_as(user, "python3", "-c", _SENDS_AND_CLOSES, f"{user} is gone"))
    machine.run(*run_as("alice", "python3", "-c", _CLIENT, group, "alice by group"))
    refused = machine.run(*run_as("bob", "python3", "-c", _CLIENT, group, "bob by group"), check=False)
    assert "PermissionError" in refused.stderr
    # A user who is root in a user namespace still has their own uid.
    unshare = ["unshare", "--user", "--map-root-user", "python3", "-c", _CLIENT]
    for where in ("127.0.0.1", everybody):
        machine.run(*run_as("bob", *unshare, where, f"bob as root by {where}"))
    setpriv = ["setpriv", "--reuid=65534", "--clear-groups", "python3", "-c", _CLIENT]
    machine.run(*setpriv, "127.0.0.1", "nobody")

    machine.wait(lambda: len(said(machine)) == 17, "the server to tell of all clients")
    found = said(machine)
    alice: list[object] = [1002, ["gid:1002", "gid:27", "gid:alice", "gid:sre", "uid:1002", "uid:alice"]]
    bob: list[object] = [1003, ["gid:1003", "gid:bob", "uid:1003", "uid:bob"]]
    root: list[object] = [0, ["gid:0", "gid:root", "uid:0", "uid:root"]]
    nobody: list[object] = [None, []]
    users = {"alice": alice, "bob": bob, "root": root}
    assert found == {
        "hidden": [None],
        **{f"{user} by {where}": users[user] for user in users for where in ("127.0.0.1", "::1", everybody)},
        **{f"{user} is gone": nobody for user in users},
        "alice by group": alice,
        "bob as root by 127.0.0.1": bob,
        f"bob as root by {everybody}": bob,
        "nobody": nobody,
    }

    # `kubemux check` in a shell would not find this, because it runs without the unit's hardening.
    for hardening, remedy in _HIDES.items():
        machine.drop_in("hides", f"[Service]\n{hardening}\n")
        machine.systemctl("daemon-reload")
        machine.systemctl("restart", "kubemux.service")
        [why, told] = cast("list[list[str]]", said(machine)["hidden"])[0]
        assert remedy in told, (hardening, why)
        machine.run(*run_as("root", "python3", "-c", _CLIENT, "127.0.0.1", hardening))
        machine.wait(lambda: hardening in said(machine), "the server to tell")  # noqa: B023
        assert said(machine)[hardening] == nobody
