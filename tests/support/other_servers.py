"""SSH servers other than OpenSSH's: dropbear, asyncssh and paramiko, each as a gateway that forwards to
loopback.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import asyncssh

from proxy.config.model import GatewayConfig
from proxy.config.reading import read
from tests.support import ssh_keys
from tests.support.daemon import ROOT
from tests.support.parts import SBIN, need
from tests.support.ports import free_port
from tests.support.processes import descendants

READY_SECONDS = 60.0

Connections = list[asyncssh.SSHServerConnection]


def gateway_config(folder: Path, port: int, host_key: Path, key: Path) -> GatewayConfig:
    """The configuration of a gateway at that loopback port, with one link."""
    known_hosts = folder / "known_hosts"
    known_hosts.write_text(f"[127.0.0.1]:{port} {ssh_keys.public(host_key)}\n")
    section = {
        "host": "127.0.0.1",
        "port": port,
        "user": "root",
        "identity_files": [str(key)],
        "known_hosts": [str(known_hosts)],
        "connections": 1,
        "connect_timeout": "30s",
    }
    return read(GatewayConfig, section)


class _Forwarding(asyncssh.SSHServer):
    def __init__(self, conns: Connections) -> None:
        self._conns = conns

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._conns.append(conn)

    def connection_requested(self, *_: object) -> bool:
        return True


@asynccontextmanager
async def asyncssh_server(
    folder: Path, session: Callable[[Connections], asyncssh.SSHServer] = _Forwarding, **options: object
) -> AsyncIterator[GatewayConfig]:
    """asyncssh's server, in the test's own loop; a `session` adds each connection to the
    list that it is made with."""
    host_key, key = ssh_keys.new_key(folder / "host"), ssh_keys.new_key(folder / "key")
    conns: Connections = []
    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_factory=lambda: session(conns),
        server_host_keys=[str(host_key)],
        authorized_client_keys=asyncssh.import_authorized_keys(ssh_keys.public(key)),
        gss_host=None,
        **options,
    )
    try:
        yield gateway_config(folder, server.get_port(), host_key, key)
    finally:
        server.close()
        for conn in conns:
            conn.abort()
            await conn.wait_closed()
        await server.wait_closed()


@contextmanager
def paramiko_server(folder: Path, *, rekey_bytes: int) -> Iterator[GatewayConfig]:
    """paramiko's server, in a process of its own."""
    host_key, key = ssh_keys.new_key(folder / "host"), ssh_keys.new_key(folder / "key")
    command = [
        sys.executable,
        "-m",
        "tests.support.paramiko_server",
        str(host_key),
        f"{key}.pub",
        str(rekey_bytes),
    ]
    with (folder / "paramiko.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
        )
    assert process.stdout
    with process.stdout:
        try:
            port = process.stdout.readline().strip()
            assert port, (folder / "paramiko.log").read_text()
            yield gateway_config(folder, int(port), host_key, key)
        finally:
            process.kill()
            process.wait(timeout=60)


@asynccontextmanager
async def dropbear_server(folder: Path) -> AsyncIterator[GatewayConfig]:
    """Debian's dropbear, in a mount namespace with another home folder: it reads authorized_keys
    only there.
    """
    need("dropbear")
    host_key, key, port = folder / "host", ssh_keys.new_key(folder / "key"), free_port()
    said = subprocess.run(  # noqa: ASYNC221 - takes milliseconds
        ["dropbearkey", "-t", "ed25519", "-f", host_key],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    (folder / "host.pub").write_text(
        next(line for line in said.stdout.splitlines() if line.startswith("ssh-"))
    )
    script = (
        'mount -t tmpfs -o mode=700 tmpfs ~ && mkdir -m 700 ~/.ssh && cp "$1.pub" ~/.ssh/authorized_keys && '
        'exec dropbear -F -s -r "$2" -P "" -p "127.0.0.1:$3"'
    )
    process = subprocess.Popen(  # noqa: ASYNC220 - the same
        [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            script,
            "sh",
            key,
            host_key,
            str(port),
        ],
        stderr=subprocess.DEVNULL,
        env={"HOME": str(Path.home()), "PATH": SBIN},
    )
    try:
        await _listening(port)
        yield gateway_config(folder, port, host_key, key)
    finally:
        for pid in descendants(process.pid):
            with suppress(ProcessLookupError):  # the session has just ended by itself
                os.kill(pid, signal.SIGKILL)
        process.kill()
        process.wait(timeout=60)


async def _listening(port: int) -> None:
    async with asyncio.timeout(READY_SECONDS):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                await writer.wait_closed()
                return
