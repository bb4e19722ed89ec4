"""Prepares the demo: keys, certificates, bound sockets, the configuration and the kubeconfig.

It blocks, so it runs before the event loop. The kernel chooses every port. The sockets stay bound, so no
other program can get one of these ports.
"""

from __future__ import annotations

import secrets
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import asyncssh

from proxy.config.loader import load
from proxy.config.model import Config
from proxy.demo.certificates import SERVER_NAME, issue, write_private
from proxy.demo.objects import Contents, contents
from proxy.demo.ssh_server import authorized_key
from proxy.kubeconfig import exporter
from proxy.kubeconfig.entries import Kubeconfig
from proxy.kubeconfig.targets import targets
from proxy.runtime.endpoint import Endpoint, Local

_CLUSTERS: Final = {"berlin": (2, ("web", "database")), "tokyo": (3, ("web", "cache"))}
"""Name -> the number of worker nodes, the names of deployments."""

_CONFIG: Final = """\
# A kubemux configuration like any other: one gateway, an entry, and the clusters behind them.
version: 1
admin: {{listen: "{admin}", socket: "{folder}/admin.sock"}}
log: {{format: console}}
limits: {{drain_timeout: 1s}}
gateways:
  bastion:
    host: 127.0.0.1
    port: {ssh.port}
    user: demo
    identity_files: ["{folder}/id_ed25519"]
    known_hosts: ["{folder}/known_hosts"]
entries:
  proxy: {{listen: "{proxy}"}}
clusters:
"""
_CLUSTER: Final = """\
  {name}:
    gateway: bastion
    listen: "{listen}"
    api_servers: ["{api_server}"]
    tls: {{server_name: {server_name}, ca_file: "{ca_file}"}}
"""


@dataclass(frozen=True, slots=True)
class StandIn:
    """One cluster: the objects and the certificate of its API server, and the socket that it listens on."""

    name: str
    contents: Contents
    tls: ssl.SSLContext
    sock: socket.socket


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything that the demo needs to run."""

    folder: Path
    config_path: Path
    config: Config
    kubeconfig: Path
    token: str = field(repr=False)
    clusters: tuple[StandIn, ...]
    ssh_socket: socket.socket
    ssh_host_key: asyncssh.SSHKey
    ssh_authorized_keys: str
    daemon_sockets: dict[Local, socket.socket]
    """By local address, as systemd passes sockets to a daemon."""


@contextmanager
def prepare(folder: Path) -> Iterator[Stage]:
    """Create everything below `folder`, an absolute path that other users may not read. Raises OSError.

    The sockets are closed at the end of the block.
    """
    with ExitStack() as stack:

        def bind() -> tuple[Endpoint, socket.socket]:
            sock = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=128))
            sock.setblocking(False)
            return Endpoint(*sock.getsockname()), sock

        user_key, host_key = (
            asyncssh.generate_private_key("ssh-ed25519"),
            asyncssh.generate_private_key("ssh-ed25519"),
        )
        ssh, ssh_socket = bind()
        write_private(folder / "id_ed25519", user_key.export_private_key())
        write_private(
            folder / "known_hosts", f"[127.0.0.1]:{ssh.port} {host_key.export_public_key().decode()}".encode()
        )

        admin, admin_socket = bind()
        proxy, proxy_socket = bind()
        daemon_sockets: dict[Local, socket.socket] = {admin: admin_socket, proxy: proxy_socket}
        text = _CONFIG.format(admin=admin, ssh=ssh, proxy=proxy, folder=folder)
        clusters, api_servers = [], []
        for name, (workers, pods) in _CLUSTERS.items():
            api_server, sock = bind()
            listen, daemon_sockets[listen] = bind()
            ca_file = folder / f"{name}.crt"
            clusters.append(StandIn(name, contents(name, workers, pods), issue(ca_file), sock))
            api_servers.append(api_server)
            text += _CLUSTER.format(
                name=name, listen=listen, api_server=api_server, server_name=SERVER_NAME, ca_file=ca_file
            )

        config_path, kubeconfig, token = (
            folder / "config.yaml",
            folder / "kubeconfig",
            secrets.token_urlsafe(24),
        )
        write_private(config_path, text.encode())
        config = load(config_path)
        write_private(kubeconfig, _kubeconfig(config, config_path, token))
        yield Stage(
            folder=folder,
            config_path=config_path,
            config=config,
            kubeconfig=kubeconfig,
            token=token,
            clusters=tuple(clusters),
            ssh_socket=ssh_socket,
            ssh_host_key=host_key,
            ssh_authorized_keys=authorized_key(user_key.export_public_key().decode(), api_servers),
            daemon_sockets=daemon_sockets,
        )


def _kubeconfig(config: Config, config_path: Path, token: str) -> bytes:
    """A kubeconfig whose contexts have the user `demo`, with the clusters of `kubeconfig export --base`."""
    base = Kubeconfig(
        contexts={name: {"cluster": name, "user": "demo"} for name in config.clusters},
        users={"demo": {"token": token}},
    )
    return exporter.new(targets(config, config.clusters, str(config_path)), base)[0]
