"""The settings that an ssh_config has for one alias.

`ssh_g.py` asks ssh(1) for them, `ssh_config_reader.py` makes them from its answer, and
`known_hosts_command.py` adds what a KnownHostsCommand prints.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

from proxy.openssh.algorithms import Asked
from proxy.openssh.keywords import Use


@dataclass(frozen=True, slots=True)
class Remark:
    """One option that the file asks for, and what kubemux does with it (`why` is empty if it is used)."""

    keyword: str
    value: str
    use: Use
    why: str = ""


@dataclass(frozen=True, slots=True)
class SshConfig:
    """The settings of an ssh_config for one alias. A field is None or empty for ssh's default."""

    path: Path
    host: str
    port: int
    user: str
    identities: tuple[Path, ...]
    are_identities_named: bool
    """Whether the file names `identities`. If not, they are those that ssh tries by default."""
    known_hosts: tuple[Path, ...]
    """The user's files, then the system's."""
    has_user_known_hosts: bool
    """False if the file says `UserKnownHostsFile none`."""
    certificates: tuple[Path, ...] = ()
    identities_only: bool = False
    keyboard_interactive: bool = True
    agent: str | None = None
    """IdentityAgent: a socket, empty for none at all."""
    revoked_host_keys: tuple[Path, ...] = ()
    known_hosts_command: tuple[str, ...] = ()
    """KnownHostsCommand, for `known_hosts_command.run`."""
    commanded: bytes = b""
    """What that command has printed: lines as in known_hosts."""
    host_key_alias: str | None = None
    family: socket.AddressFamily = socket.AF_UNSPEC
    bind_address: str | None = None
    connect_timeout: float | None = None
    tcp_keepalive: bool = True
    rekey_bytes: int | None = None
    rekey_seconds: int | None = None
    proxy_command: str | None = None
    proxy_jump: str | None = None
    ciphers: Asked | None = None
    kex_algorithms: Asked | None = None
    macs: Asked | None = None
    host_key_algorithms: Asked | None = None
    public_key_algorithms: Asked | None = None
    remarks: tuple[Remark, ...] = ()
