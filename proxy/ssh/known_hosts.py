"""Whom we trust to be a gateway: what known_hosts says of it (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT).

Plain and hashed names, `@cert-authority` and `@revoked` are asyncssh's to match; which files are read, and in which order
host key algorithms are asked for, is decided here. Nothing here, and nothing in an ssh_config, switches the check off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import asyncssh

from proxy.blocking import doing
from proxy.config.host_keys import render, valid
from proxy.config.model import GatewayConfig
from proxy.errors import CredentialsUnusable
from proxy.ssh import host_keys

_ALGORITHMS: Final = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-512",
    "rsa-sha2-256",
)
_CERTIFICATES: Final = tuple(f"{name}-cert-v01@openssh.com" for name in _ALGORITHMS)
_SSH_PORT: Final = 22


@dataclass(frozen=True, slots=True)
class Trusted:
    """What known_hosts has for one server."""

    keys: Sequence[asyncssh.SSHKey] = ()
    authorities: Sequence[asyncssh.SSHKey] = ()
    revoked: Sequence[asyncssh.SSHKey] = ()

    def algorithms(self) -> list[str]:
        """Certificates if an authority is known, the known keys' kinds, then all others.

        The others are there for the message: a server whose key changed its kind then shows it, instead of finding no
        algorithm in common. Without an authority no certificate is asked for: it would hide the key itself.
        """
        known = [algorithm.decode() for key in self.keys for algorithm in key.sig_algorithms]
        usable = [name for name in known if name in _ALGORITHMS]  # not ssh-rsa: SHA-1
        return list(dict.fromkeys([*(_CERTIFICATES if self.authorities else ()), *usable, *_ALGORITHMS]))


def read(config: GatewayConfig, options: asyncssh.SSHClientConnectionOptions) -> asyncssh.SSHKnownHosts:
    """The gateway's `known_hosts`; without that, the files that ssh(1) would read. Blocks. Raises CredentialsUnusable."""
    if config.known_hosts:
        found = _read(config, config.known_hosts)
        if config.learned_host_keys:
            known, learned = host_keys.read_files(config)
            found.load(render(valid(known, learned)).decode())
        return found
    if options.known_hosts is None:
        raise CredentialsUnusable(
            f"ssh_config of {config.host} switches host key checking off (UserKnownHostsFile none)",
            hint="give known_hosts in the gateway; kubemux never connects to a server it cannot identify",
        )
    users = cast("list[str]", options.config.get("UserKnownHostsFile", ["~/.ssh/known_hosts", "~/.ssh/known_hosts2"]))
    everybodys = cast("list[str]", options.config.get("GlobalKnownHostsFile", ["/etc/ssh/ssh_known_hosts"]))
    files = [Path(name).expanduser() for name in (*users, *everybodys)]
    return _read(config, [path for path in files if path.exists()])  # ssh(1) does without those that are missing


def _read(config: GatewayConfig, files: Sequence[Path]) -> asyncssh.SSHKnownHosts:
    known_hosts = asyncssh.SSHKnownHosts()
    for path in files:
        doing(f"reading {path}")
        try:
            known_hosts.load(path.read_text())
        except (OSError, ValueError) as exc:
            said = (exc.strerror if isinstance(exc, OSError) else None) or exc
            raise CredentialsUnusable(
                f"known_hosts file {path} of {config.host} cannot be used: {said}",
                hint="restore the file, readable by the daemon's user; a line reads: HOST[,HOST...] KEYTYPE BASE64",
            ) from exc
    return known_hosts


def match(known_hosts: asyncssh.SSHKnownHosts, options: asyncssh.SSHClientConnectionOptions, addresses: Sequence[str]) -> Trusted:
    """What `known_hosts` has for the server of `options`, by its name (or HostKeyAlias) or one of its IP `addresses`.

    For the order of algorithms and for messages: asyncssh matches again, by the address that it is connected to.
    """
    port = options.port if options.port != _SSH_PORT else None
    host = options.host_key_alias or options.host
    keys: dict[asyncssh.SSHKey, None] = {}
    authorities: dict[asyncssh.SSHKey, None] = {}
    revoked: dict[asyncssh.SSHKey, None] = {}
    for address in addresses or [""]:
        found = asyncssh.match_known_hosts(known_hosts, host, address, port)
        for group, matches in ((keys, found[0]), (authorities, found[1]), (revoked, found[2])):
            group.update(dict.fromkeys(matches))  # once each: a server that is named by its address is found twice
    return Trusted(tuple(keys), tuple(authorities), tuple(revoked))
