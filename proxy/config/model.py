"""The configuration as frozen, typed values (version 1).

Shapes and defaults only. What can be said about one value alone is checked here; what needs the file system
or two places of the file (a dangling gateway, a duplicate port, key permissions) is checked in
`proxy/config/rules.py`. Equality is by value: reload keeps what compares equal.
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from proxy.config.typed import NotEmpty, Section, Within
from proxy.config.values import Address, BasePath, Duration, FilePath, Name, Size, UrlPath, Word
from proxy.runtime.endpoint import Endpoint

DIRECT = "direct"
"""The gateway name that means: no SSH, connect from here."""

Port = Annotated[int, Within(1, 65535)]
Count = Annotated[int, Within(1)]


class AdminConfig(Section):
    """`admin:`, where the daemon can be asked (TCP, read only) and told (unix socket)."""

    listen: Address = Endpoint("127.0.0.1", 9464)
    socket: FilePath | None = None
    allow_remote: bool = False


class LogConfig(Section):
    """`log:`."""

    format: Literal["json", "console"] = "json"
    level: Literal["debug", "info", "warning", "error"] = "info"


class LimitsConfig(Section):
    """`limits:`, for the whole daemon."""

    max_connections: Count = 10_000
    memory: Size = 256 << 20
    hold_timeout: Duration = 5.0
    drain_timeout: Duration = 30.0


class KeepaliveConfig(Section):
    """`keepalive:`, a silent peer is given up after `interval` × `max_missed` seconds."""

    interval: Duration = 15.0
    max_missed: Count = 3


class GatewayConfig(Section):
    """One SSH server.

    `host` may be an alias of `ssh_config`; what is unset is taken from there, then from OpenSSH's defaults.
    """

    host: Word
    port: Port | None = None
    user: Word | None = None
    identity_files: tuple[FilePath, ...] = ()
    certificate_files: tuple[FilePath, ...] = ()
    passphrase_file: FilePath | None = None
    agent: bool = False
    known_hosts: tuple[FilePath, ...] = ()
    jump: tuple[Name, ...] = ()
    connections: Annotated[int, Within(1, 16)] = 2
    connect_timeout: Duration = 10.0
    keepalive: KeepaliveConfig = KeepaliveConfig()
    max_link_age: Duration | None = None
    retire_timeout: Duration = 600.0
    ssh_config: FilePath | None = None
    learned_host_keys: FilePath | None = None


class TlsConfig(Section):
    """`tls:`, what the API server's certificate is checked against, by probes and in exported kubeconfigs."""

    server_name: Word | None = None
    ca_file: FilePath | None = None


class ProbeConfig(Section):
    """`probe:`."""

    path: UrlPath = "/healthz"
    interval: Duration = 10.0
    timeout: Duration = 5.0
    token_file: FilePath | None = None
    client_cert: FilePath | None = None
    client_key: FilePath | None = None
    threshold: Count = 2


class ClusterConfig(Section):
    """One Kubernetes API server, or several of one cluster."""

    gateway: Name
    listen: Address
    allow_remote: bool = False
    api_servers: Annotated[tuple[Address, ...], NotEmpty()]
    base_path: BasePath | None = None
    """The part of the API server's URL after its address, where it shares that with others: Rancher's
    `/k8s/clusters/c-1`.
    """
    max_connections: Count | None = None
    idle_timeout: Duration | None = None
    tls: TlsConfig = TlsConfig()
    probe: ProbeConfig = ProbeConfig()


class Config(Section):
    """The whole file, `defaults:` already merged in."""

    version: Literal[1]
    admin: AdminConfig = AdminConfig()
    log: LogConfig = LogConfig()
    limits: LimitsConfig = LimitsConfig()
    gateways: dict[Name, GatewayConfig] = field(default_factory=dict)
    clusters: dict[Name, ClusterConfig] = field(default_factory=dict)
