"""A daemon with an SSH server, hosts and clusters that its users reach by name, and the users' machine."""

from __future__ import annotations

import hashlib
import socket
import socketserver
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from proxy.runtime.endpoint import Endpoint
from proxy.ssh.planes import DATA_PLANE
from tests.integration.conftest import gateway
from tests.integration.recipes import Desk
from tests.support import parts, ssh_keys
from tests.support.daemon import Daemon, Sections
from tests.support.echo import pattern
from tests.support.ports import free_port
from tests.support.site import SshServerFiles
from tests.support.sshd import Sshd

USERS: Final = {
    "ops": "",
    "narrow": 'restrict,port-forwarding,permitopen="node-a:22"',
    "shut": "no-port-forwarding",
    "gone": 'expiry-time="20200101"',
    "elsewhere": 'from="192.0.2.0/24"',
}
"""The options of each user's key."""
SECONDS: Final = 60.0
SITE: Final = "factory-7"
_TLS: Final = b"\x16"


class Sums(socketserver.BaseRequestHandler):
    """Answers `GET /N` with N bytes, as HTTP. Otherwise it reads until the client's end of file, and answers
    with the checksum. It closes a probe's connection, which speaks TLS.
    """

    def handle(self) -> None:
        data = self.request.recv(1 << 16)
        if data.startswith(_TLS):
            return
        if data.startswith(b"GET /"):
            self._send(int(data[len(b"GET /") :].split()[0]))
            return
        seen = hashlib.sha256()
        while data:
            seen.update(data)
            data = self.request.recv(1 << 16)
        self.request.sendall(f"{seen.hexdigest()}\n".encode())

    def _send(self, size: int) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n"
        self.request.sendall(head.encode())
        for sent in range(0, size, len(BLOCK)):
            self.request.sendall(BLOCK[: size - sent])


BLOCK: Final = pattern(1 << 20)
"""The bytes that `Sums` sends repeatedly."""


class _Server(socketserver.ThreadingTCPServer):
    request_queue_size = 1000


@contextmanager
def sums() -> Iterator[Endpoint]:
    """A server of `Sums`."""
    with _Server(("127.0.0.1", 0), Sums) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield Endpoint("127.0.0.1", server.server_address[1])
        finally:
            server.shutdown()
            thread.join()


def wait_for_port(port: int) -> None:
    """Wait until a client listens on this port."""
    began = time.monotonic()
    while True:
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert time.monotonic() - began < SECONDS, "nobody listens"
        time.sleep(0.02)


class Jumping(NamedTuple):
    """The daemon, and the users' machine."""

    daemon: Daemon
    files: SshServerFiles
    desk: Desk
    sshd: Sshd
    plane: str


def config(files: SshServerFiles, sshd: Sshd) -> str:
    """The ssh_config of all users. Host `bastion` is kubemux for ops; other users have their own Host."""
    known = files.folder / "known_hosts_of_nodes"
    known.write_text(f"node-a {ssh_keys.public(sshd.host_key)}\n")
    bastions = "".join(
        f"Host {'bastion' if user == 'ops' else user}\n HostName 127.0.0.1\n Port {files.listen.port}\n"
        f" User {user}\n IdentityFile {files.key(user)}\n UserKnownHostsFile {files.known_hosts}\n"
        for user in (*USERS, SITE)
    )
    return (
        f"{bastions}Host node-*\n User {sshd.user}\n IdentityFile {sshd.identity}\n"
        f" UserKnownHostsFile {known}\n HostKeyAlias node-a\n"
        "Host *\n BatchMode yes\n IdentitiesOnly yes\n GlobalKnownHostsFile /dev/null\n"
    )


@contextmanager
def jumping(
    folder: Path, *, plane: str = "", expected_errors: Collection[str] = (), **more: object
) -> Iterator[Jumping]:
    """Run everything. `more` are sections of the configuration."""
    files = SshServerFiles(folder / "ssh")
    with Sshd(folder / "sshd") as sshd, sums() as server:
        cluster: Sections = {
            "gateway": "edge",
            "api_servers": [str(server)],
            "probe": {"interval": "1h", "threshold": 1},
        }
        clusters = {
            "prod-eu": cluster,
            "closed": {**cluster, "allow": ["ssh-user:narrow"]},
            "shared": {**cluster, "allow": [f"site:{SITE}"]},
            "refused": {**cluster, "api_servers": [f"127.0.0.1:{free_port()}"]},
        }
        host = f"{sshd.host}:{sshd.port}"
        sections: dict[str, object] = {
            # No penalties: those of one test's failed logins would affect the next test.
            "ssh_server": {**files.sections(), "sources": [{"networks": ["127.0.0.0/8"]}]},
            "users": {user: files.authorized(user, options) for user, options in USERS.items()},
            "sites": {SITE: files.authorized(SITE)},
            "routes": [
                {"name": "nodes", "match": ["node-*:22"], "gateway": "edge", "target": host},
                {"name": "elsewhere", "match": ["*.local:*"], "gateway": "edge", "entries": ["proxy"]},
                {
                    "name": "sums",
                    "match": ["*.sums:*"],
                    "gateway": "edge",
                    "target": str(server),
                    "entries": ["ssh"],
                },
            ],
            "entries": {"proxy": {"listen": f"127.0.0.1:{free_port()}"}},
            "limits": {"drain_timeout": "2s"},
            **more,
        }
        (folder / "ssh_config").write_text(config(files, sshd))
        desk = Desk(folder, files.listen, programs={"ssh": f"{parts.find('ssh')} -F {folder / 'ssh_config'}"})
        environment = {DATA_PLANE: plane} if plane else {}
        gateways = {"edge": gateway(sshd)}
        with Daemon(
            folder / "daemon",
            gateways=gateways,
            clusters=clusters,
            sections=sections,
            expected_errors=expected_errors,
            environment=environment,
        ) as daemon:
            # Otherwise a client may come before them, and is held for `hold_timeout` at most.
            daemon.wait_for("both links", lambda: daemon.metric("kubemux_gateway_links") == 2)
            daemon.wait_up(*clusters, up=False)  # until the last probe has ended
            yield Jumping(daemon, files, desk, sshd, plane)
