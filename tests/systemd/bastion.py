"""The servers that a machine's kubemux connects to: a real sshd as bastion.eu.example.com, and behind it an
API server at 10.0.0.10:6443.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tests.support.parts import find
from tests.support.ssh_keys import new_key, public
from tests.support.tls import Authority
from tests.systemd.machine import Machine

HOST: Final = "bastion.eu.example.com"
API_SERVER: Final = "10.0.0.10:6443"
TOKEN: Final = "of-an-administrator"  # noqa: S105 - only for this test

_SSHD: Final = """\
ListenAddress 127.0.0.1:22
HostKey /etc/ssh/host_key
AuthorizedKeysFile /etc/ssh/authorized_keys
AllowUsers tunnel
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
    sock = socket.create_server(("10.0.0.10", 6443))
    sock.setblocking(False)
    async with serve(sock, tls, contents("prod-eu", 1, ("web",)), token=token):
        await asyncio.Event().wait()
asyncio.run(main(*sys.argv[1:]))
"""
_ASK: Final = """
import socket
for address in ("127.0.0.1", 22), ("10.0.0.10", 6443):
    socket.create_connection(address, timeout=60).close()
"""


class Bastion:
    """Keys and certificates, which exist before the machine boots; and the servers, which run after that."""

    def __init__(self, machine: Machine) -> None:
        """The files are in a folder below the machine's /etc, which sshd can read as any user."""
        folder = machine.root / "etc/ssh"
        folder.mkdir(mode=0o755)
        self.key = new_key(folder / "key")
        self.known_hosts = f"{HOST} {public(new_key(folder / 'host_key'))}\n"
        (folder / "authorized_keys").write_text(f"{public(self.key)}\n")
        authority = Authority(folder)
        self.ca = authority.ca.cert
        authority.issue("api-server", ips=("10.0.0.10",))
        (folder / "sshd_config").write_text(_SSHD)
        pem = base64.b64encode(self.ca.read_bytes()).decode()
        self.kubeconfig = json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [
                    {
                        "name": "eu",
                        "cluster": {"server": f"https://{API_SERVER}", "certificate-authority-data": pem},
                    }
                ],
                "users": [{"name": "me", "user": {"token": TOKEN}}],
                "contexts": [{"name": "prod-eu", "context": {"cluster": "eu", "user": "me"}}],
            }
        )
        """The kubeconfig that the cluster's administrator gives to users."""
        self._machine = machine

    @staticmethod
    def inside(name: str) -> str:
        """The path of one of its files inside the machine."""
        return f"/etc/ssh/{name}"

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Run both servers in the booted machine until the block ends."""
        machine = self._machine
        machine.run("install", "-d", "-m", "755", "/run/sshd")
        machine.run("ip", "address", "add", "10.0.0.10/32", "dev", "lo")
        python = f"/opt/python/bin/python3.{sys.version_info.minor}"
        paths = [
            "env",
            "LD_LIBRARY_PATH=/opt/python/lib",
            "PYTHONPATH=/opt/checkout:/opt/site",
            "PYTHONDONTWRITEBYTECODE=1",
        ]
        certificate = ("/etc/ssh/api-server.crt", "/etc/ssh/api-server.key")
        sshd = find("sshd") or "sshd"
        with (
            machine.background(sshd, "-D", "-f", "/etc/ssh/sshd_config", "-E", "/etc/ssh/sshd.log"),
            machine.background(*paths, python, "-c", _SERVE, *certificate, TOKEN),
        ):
            machine.wait(
                lambda: machine.run("python3", "-c", _ASK, check=False).returncode == 0,
                "the servers behind it",
            )
            yield
