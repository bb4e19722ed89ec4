"""An entry with TLS under the shipped unit: its key is a credential of root's, its users are a file for the
service's group, and both are read again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Final

import bcrypt
import pytest

from tests.support.tls import Authority, Issued
from tests.systemd.machine import Machine

pytestmark = pytest.mark.systemd

_HOST: Final = "bastion.eu.example.com"
_ENTRY: Final = {
    "listen": "127.0.0.1:3129",
    "tls": {
        "cert_file": "/etc/kubemux/entries/remote.crt",
        "key_file": "${CREDENTIALS_DIRECTORY}/remote.key",
        "client_ca_file": "/etc/kubemux/entries/clients.crt",
    },
    "users_file": "/etc/kubemux/entries/users",
}
_CREDENTIALS: Final = "[Service]\nLoadCredential=remote.key:/etc/kubemux/keys/remote.key\n"

_IS_THERE: Final = "import socket; socket.create_connection(('127.0.0.1', 7000), timeout=5).close()"
_CLIENT: Final = """
import base64, socket, ssl, sys
name, password, *pair = sys.argv[1:]
context = ssl.create_default_context(cafile="/etc/kubemux/entries/ca.crt")
if pair:
    context.load_cert_chain(*pair)
try:
    with socket.create_connection(("127.0.0.1", 3129), timeout=60) as sock:
        with context.wrap_socket(sock, server_hostname="bastion.eu.example.com") as client:
            basic = base64.b64encode(password.encode()).decode()
            head = f"CONNECT {name}:443 HTTP/1.1\\r\\nProxy-Authorization: Basic {basic}\\r\\n\\r\\n"
            client.sendall(head.encode())
            print(client.makefile("rb").readline().decode().strip())
except (ssl.SSLError, ConnectionError):
    print("refused by TLS")
"""


class Remote:
    """The files of the entry on a machine, and its clients."""

    def __init__(self, machine: Machine, authority: Authority) -> None:
        self.machine = machine
        self.authority = authority
        self.entries = machine.root / "etc/kubemux/entries"
        self.keys = machine.root / "etc/kubemux/keys"
        self.entries.mkdir(mode=0o755)
        self.keys.mkdir(mode=0o700)
        issued = authority.issue("remote", dns=(_HOST,))
        self.publish(issued.cert, "remote.crt")
        self.publish(authority.ca.cert, "ca.crt")
        self.publish(authority.ca.cert, "clients.crt")
        shutil.copy(issued.key, self.keys / "remote.key")
        (self.keys / "remote.key").chmod(0o400)
        self.let_in(argo="first")

    def publish(self, path: Path, name: str) -> None:
        (self.entries / name).write_bytes(path.read_bytes())
        (self.entries / name).chmod(0o644)

    def let_in(self, **users: str) -> None:
        """root's file, which the service's group may read."""
        lines = (
            f"{user}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()}\n"
            for user, password in users.items()
        )
        path = self.entries / "users"
        path.touch(mode=0o640)
        shutil.chown(path, 0, 990)
        path.write_text("".join(lines))

    def ask(self, name: str, login: str, issued: Issued | None = None) -> str:
        pair: tuple[str, ...] = ()
        if issued is not None:
            for path in (issued.cert, issued.key):
                self.publish(path, path.name)
            pair = (f"/etc/kubemux/entries/{issued.cert.name}", f"/etc/kubemux/entries/{issued.key.name}")
        answer = self.machine.run("python3", "-c", _CLIENT, name, login, *pair).stdout
        return answer.strip().removeprefix("HTTP/1.1 ")


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[Remote]:
    (tmp_path / "machine").mkdir()
    machine = Machine(tmp_path / "machine")
    etc = machine.root / "etc"
    for name, line in (("passwd", "kubemux:x:990:990::/:/bin/false\n"), ("group", "kubemux:x:990:\n")):
        (etc / name).write_text((etc / name).read_text() + line)
    made = Remote(machine, Authority(tmp_path / "ca"))
    machine.drop_in("credentials", _CREDENTIALS)
    target = {"gateway": "direct", "api_servers": ["127.0.0.1:7000"]}
    clusters = {
        "for-ci": {**target, "allow": ["cert:ci.example.com"]},
        "for-argo": {**target, "allow": ["proxy-user:argo"]},
    }
    entries = {"remote": _ENTRY}
    admin = {"socket": "/run/kubemux/admin.sock"}
    config = {"version": 1, "admin": admin, "clusters": clusters, "entries": entries}
    machine.config.write_text(json.dumps(config))
    machine.config.chmod(0o644)
    with machine, machine.background("python3", "-m", "http.server", "7000", "--bind", "127.0.0.1"):
        machine.wait(
            lambda: machine.run("python3", "-c", _IS_THERE, check=False).returncode == 0, "the target"
        )
        machine.systemctl("start", "kubemux.service")
        yield made


def test_certificates_and_passwords_are_read_again_when_they_change(remote: Remote) -> None:
    machine = remote.machine
    ci, other = (remote.authority.issue(name, dns=(f"{name}.example.com",)) for name in ("ci", "other"))
    assert remote.ask("for-ci", "argo:first", ci) == "200 Connection established"
    assert remote.ask("for-argo", "argo:first", other) == "200 Connection established"
    assert remote.ask("for-ci", "argo:first", other).startswith("403 kubemux: for-ci: denied (")
    assert remote.ask("for-ci", "argo:wrong", ci).startswith("407 ")
    assert remote.ask("for-ci", "argo:first") == "refused by TLS"

    remote.let_in(argo="second")
    machine.systemctl("reload", "kubemux.service")
    assert remote.ask("for-ci", "argo:first", ci).startswith("407 ")
    assert remote.ask("for-ci", "argo:second", ci) == "200 Connection established"

    old = remote.authority.issue("old", valid=(timedelta(days=-2), timedelta(days=-1)))
    remote.publish(old.cert, "clients.crt")
    machine.systemctl("reload", "kubemux.service")
    assert remote.ask("for-ci", "argo:second", ci) == "refused by TLS"
    done = machine.run("/opt/kubemux/bin/kubemux", "status", check=False)
    assert "every CA in /etc/kubemux/entries/clients.crt has expired on " in " ".join(done.stdout.split())
