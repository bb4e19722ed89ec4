"""A factory beside a machine: another network, with an API server at 127.0.0.1:6443 and a node `node-a` with
a real sshd. In that network, the machine is bastion.example.com.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.support.parts import find
from tests.support.ssh_keys import new_key, public
from tests.support.tls import Authority
from tests.systemd.machine import Machine

ADDRESS: Final = "192.0.2.7"
_BASTION: Final = "192.0.2.1"
_TOKEN: Final = "of-an-administrator"  # noqa: S105 - only for this test

_HOSTS: Final = f"127.0.0.1 localhost\n127.0.0.2 node-a\n{_BASTION} bastion.example.com\n"
_SSHD: Final = """\
ListenAddress 127.0.0.2:22
HostKey /etc/ssh/node-a
AuthorizedKeysFile /etc/ssh/authorized_keys
StrictModes no
UsePAM no
PidFile none
"""
# The demo's stand-in, which has as much of the API as kubectl needs.
_SERVE: Final = """
import asyncio, socket, ssl, sys
from proxy.demo.api_server import serve
from proxy.demo.objects import contents
async def main(cert, key, token):
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(cert, key)
    sock = socket.create_server(("127.0.0.1", 6443))
    sock.setblocking(False)
    async with serve(sock, tls, contents("factory", 1, ("web",)), token=token):
        await asyncio.Event().wait()
asyncio.run(main(*sys.argv[1:]))
"""
_ASK: Final = """
import socket
for address in ("127.0.0.2", 22), ("127.0.0.1", 6443):
    socket.create_connection(address, timeout=60).close()
"""


class Factory:
    """Its keys and certificates, which exist before the machine boots, its network and its servers."""

    def __init__(self, machine: Machine) -> None:
        folder = machine.root / "etc/ssh"
        folder.mkdir(mode=0o755)
        (machine.root / "etc/netns/factory").mkdir(parents=True)
        (machine.root / "etc/netns/factory/hosts").write_text(_HOSTS)
        self.known_hosts = f"node-a.factory-7 {public(new_key(folder / 'node-a'))}\n"
        """known_hosts for users who ask for the node by name."""
        self.key = new_key(folder / "of_the_site")
        (folder / "authorized_keys").write_text(f"{public(new_key(folder / 'of_a_user'))}\n")
        (folder / "sshd_config").write_text(_SSHD)
        authority = Authority(folder)
        authority.issue("api-server", dns=("kubernetes",))
        self.kubeconfig = _kubeconfig(authority.ca.cert)
        """The kubeconfig that the cluster's administrator gives to users."""
        self._machine = machine

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command in its network. Returns the output."""
        return self._machine.run("ip", "netns", "exec", "factory", *command, check=check).stdout

    @contextmanager
    def background(self, *command: str) -> Iterator[None]:
        """Run a command in its network until the block ends."""
        with self._machine.background("ip", "netns", "exec", "factory", *command):
            yield

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Run both servers until the block ends."""
        machine = self._machine
        machine.run("install", "-d", "-m", "755", "/run/sshd")
        machine.run("ip", "netns", "add", "factory")
        machine.run(
            "ip", "link", "add", "factory", "type", "veth", "peer", "name", "eth0", "netns", "factory"
        )
        machine.run("ip", "address", "add", f"{_BASTION}/24", "dev", "factory")
        machine.run("ip", "link", "set", "factory", "up")
        for line in (f"address add {ADDRESS}/24 dev eth0", "link set eth0 up", "link set lo up"):
            self.run("ip", *line.split())
        python = f"/opt/python/bin/python3.{sys.version_info.minor}"
        paths = ["LD_LIBRARY_PATH=/opt/python/lib", "PYTHONPATH=/opt/checkout:/opt/site"]
        certificate = ("/etc/ssh/api-server.crt", "/etc/ssh/api-server.key")
        with (
            self.background(find("sshd") or "sshd", "-D", "-f", "/etc/ssh/sshd_config"),
            self.background(
                "env", *paths, "PYTHONDONTWRITEBYTECODE=1", python, "-c", _SERVE, *certificate, _TOKEN
            ),
        ):
            ask = ("ip", "netns", "exec", "factory", "python3", "-c", _ASK)
            machine.wait(lambda: machine.run(*ask, check=False).returncode == 0, "the servers of the factory")
            yield


def _kubeconfig(ca: Path) -> str:
    pem = base64.b64encode(ca.read_bytes()).decode()
    cluster = {"server": "https://127.0.0.1:6443", "certificate-authority-data": pem}
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "here", "cluster": cluster}],
            "users": [{"name": "me", "user": {"token": _TOKEN}}],
            "contexts": [{"name": "factory", "context": {"cluster": "here", "user": "me"}}],
        }
    )
