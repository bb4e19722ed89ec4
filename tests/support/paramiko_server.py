"""`python -m tests.support.paramiko_server HOST_KEY AUTHORIZED_KEY REKEY_BYTES`: paramiko's SSH server.

It runs in a process of its own because paramiko starts threads for each connection. It prints its port,
forwards `direct-tcpip` channels to loopback, and starts a key exchange after REKEY_BYTES in either direction.
"""

from __future__ import annotations

import socket
import sys
from contextlib import suppress
from pathlib import Path
from threading import Thread

import paramiko  # type: ignore[import-untyped]

CONNECT_SECONDS = 60
ACCEPT_SECONDS = 10
CHUNK = 32 << 10


class Forwarding(paramiko.ServerInterface):  # type: ignore[misc]
    """Lets a connection log in with the one key, and forward to any target that listens."""

    def __init__(self, authorized: str) -> None:
        self._authorized = authorized
        self.targets: dict[int, socket.socket] = {}

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        known = f"{key.get_name()} {key.get_base64()}" == self._authorized
        return int(paramiko.AUTH_SUCCESSFUL if known else paramiko.AUTH_FAILED)

    def check_channel_direct_tcpip_request(
        self, chanid: int, origin: tuple[str, int], destination: tuple[str, int]
    ) -> int:
        try:
            self.targets[chanid] = socket.create_connection(destination, timeout=CONNECT_SECONDS)
        except OSError:
            return int(paramiko.OPEN_FAILED_CONNECT_FAILED)
        self.targets[chanid].settimeout(None)
        return int(paramiko.OPEN_SUCCEEDED)


def to_cluster(channel: paramiko.Channel, target: socket.socket) -> None:
    """Copy bytes to the target until the client sends EOF, and pass that on."""
    with suppress(OSError):
        while data := channel.recv(CHUNK):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def from_cluster(channel: paramiko.Channel, target: socket.socket) -> None:
    """Copy bytes to the client until the target sends EOF, and pass that on."""
    with suppress(OSError):
        while data := target.recv(CHUNK):
            channel.sendall(data)
        channel.shutdown_write()


def relay(channel: paramiko.Channel, target: socket.socket) -> None:
    """Copy bytes in both directions until both have ended."""
    upward = Thread(target=to_cluster, args=(channel, target), daemon=True)
    upward.start()
    from_cluster(channel, target)
    upward.join()
    channel.close()
    target.close()


def serve(sock: socket.socket, host_key: paramiko.PKey, authorized: str, rekey_bytes: int) -> None:
    """Serve one SSH connection."""
    transport = paramiko.Transport(sock)
    transport.add_server_key(host_key)
    transport.packetizer.REKEY_BYTES = rekey_bytes
    forwarding = Forwarding(authorized)
    with suppress(paramiko.SSHException, EOFError):
        transport.start_server(server=forwarding)
    while transport.is_active():
        if (channel := transport.accept(ACCEPT_SECONDS)) is not None:
            target = forwarding.targets.pop(channel.get_id())
            Thread(target=relay, args=(channel, target), daemon=True).start()


def main(host_key: str, authorized_key: str, rekey_bytes: str) -> None:
    """Print the port, and serve until the process is killed."""
    key = paramiko.Ed25519Key.from_private_key_file(host_key)
    authorized = " ".join(Path(authorized_key).read_text().split()[:2])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)  # noqa: T201 - to whoever started us
        while True:
            sock, _ = listener.accept()
            Thread(target=serve, args=(sock, key, authorized, int(rekey_bytes)), daemon=True).start()


if __name__ == "__main__":
    main(*sys.argv[1:])
