"""`kubemux ssh-server keygen`: the private keys of the SSH server, before its first start."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import click

from proxy.cli import Group, note, say
from proxy.cli.options import config_option
from proxy.config.files import Unusable
from proxy.config.loader import load
from proxy.config.scrutiny import Scrutiny
from proxy.errors import ConfigError, Problem
from proxy.kubeconfig.file import WriteFailed
from proxy.runtime.endpoint import Endpoint
from proxy.ssh.server import keygen as making


@click.group("ssh-server", cls=Group)
def ssh_server() -> None:
    """Prepare the SSH server, for sites and for people who jump."""


@ssh_server.command()
@config_option
def keygen(config: Path) -> None:
    """Make the private keys of `host_keys` that are missing.

    It prints the fingerprint of each, and the lines for the known_hosts of clients. A key that is there
    stays. A name with `rsa` or `ecdsa` in it makes a key of that kind, any other an Ed25519 key.
    """
    server = load(config, Scrutiny.NONE).ssh_server
    if server is None:
        hint = 'add ssh_server: {listen: "127.0.0.1:2222", host_keys: [/etc/kubemux/ssh_host_ed25519_key]}'
        raise ConfigError(str(config), [Problem(0, "ssh_server", "there is none", hint)])
    try:
        found = [making.ensure(path) for path in server.host_keys]
    except Unusable as exc:
        raise WriteFailed(str(exc), hint=exc.hint) from exc
    for key in found:
        note(f"{key.path}: {'made' if key.is_new else 'was there'}, {key.kind} {key.fingerprint}")
        if key.is_new and os.geteuid() == 0:
            note(f"  it belongs to root: give it to the service's user: chown kubemux {key.path}")
    note("For the known_hosts of clients; replace the host by the name that they use for this machine:")
    for key in found:
        say(f"{known_as(server.listen)} {key.kind} {key.base64}")


def known_as(listen: Endpoint) -> str:
    """The first field of a line of known_hosts: the address, or this machine's name for 0.0.0.0 and ::."""
    host = socket.gethostname() if listen.host in {"0.0.0.0", "::"} else listen.host  # noqa: S104 - nothing is bound
    return host if listen.port == 22 else f"[{host}]:{listen.port}"
