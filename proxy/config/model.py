"""The configuration as frozen, typed values (version 1), and the facts about each of its keys.

The facts here are about one value alone. `proxy/config/rules.py` compares several places of the file (a
gateway that does not exist, a port used twice), and `proxy/config/credentials.py` checks the files that it
names. A reload compares these objects by value, and leaves alone what is equal.
"""

from __future__ import annotations

from typing import Final, Literal

from proxy.config.allow import Allowed
from proxy.config.asked import EntryConfig as EntryConfig
from proxy.config.asked import EntryTlsConfig as EntryTlsConfig
from proxy.config.asked import RouteConfig as RouteConfig
from proxy.config.discover import DiscoverConfig as DiscoverConfig
from proxy.config.gateways import GatewayConfig as GatewayConfig
from proxy.config.gateways import KeepaliveConfig as KeepaliveConfig
from proxy.config.keys import Kind, Section, key
from proxy.config.listen import GROUP, MODE, Listen, Mode
from proxy.config.matches import HostName
from proxy.config.ssh_server import SiteConfig as SiteConfig
from proxy.config.ssh_server import SshServerConfig as SshServerConfig
from proxy.config.ssh_server import UserConfig as UserConfig
from proxy.config.values import DIRECT as DIRECT
from proxy.config.values import (
    Address,
    BasePath,
    Duration,
    FilePath,
    Name,
    ServerName,
    Size,
    Switch,
    UrlPath,
    Whole,
)
from proxy.runtime.endpoint import Endpoint

VERSION = 1
_LEAST = 0.01
_DAY = 86400.0


class AdminConfig(Section):
    """Where the daemon shows its state (TCP, read only) and accepts orders (unix socket)."""

    listen: Address = key(
        "The address of /metrics, /healthz, /readyz and /status: read only, and without a password.",
        default=Endpoint("127.0.0.1", 9464),
    )
    socket: FilePath | None = key(
        "A unix socket, mode 0600, for reload, reconnect, drain and probe.",
        "/run/kubemux/admin.sock",
        default=None,
        unset="none (the daemon accepts no orders)",
        at_home="~/.config/kubemux/admin.sock",
    )
    allow_remote: Switch = key(
        "Whether `listen` may be an address that other machines can reach.", True, default=False
    )


class LogConfig(Section):
    """What the daemon writes to standard error."""

    format: Literal["json", "console"] = key(
        "json writes an object on each line, console writes readable text.", default="json"
    )
    level: Literal["debug", "info", "warning", "error"] = key(
        "The lowest level of messages that are written.", default="info"
    )


class LimitsConfig(Section):
    """Limits of the whole daemon."""

    max_connections: Whole = key(
        "The maximum number of client connections to all destinations, also of those that wait for a link. "
        "Further ones are reset. The daemon accepts fewer if it may not open so many files (`LimitNOFILE=`).",
        default=10_000,
        least=1,
    )
    # The least is eight channels at OpenSSH's largest window (2 MiB): with less, small transfers wait, too.
    memory: Size = key(
        "Memory for SSH windows and buffers. A window counts in full as soon as it is granted, and it grows "
        "as its client reads.",
        default=256 << 20,
        least=16 << 20,
        purpose="SSH windows and buffers",
    )
    hold_timeout: Duration = key(
        "How long a new client waits while no link is up, or while all of `memory` is in use. Then it is "
        "reset. If there has been no link for longer, new clients do not wait: their connections are refused "
        "until a link is up. 0s: no client waits.",
        default=5.0,
        least=0,
        most=_DAY,
    )
    drain_timeout: Duration = key(
        "How long connections may go on after SIGTERM, a drain, or a reload that removes their cluster. 0s: "
        "they end at once.",
        default=30.0,
        least=0,
        most=_DAY,
    )


class TlsConfig(Section):
    """How probes, and clients with exported kubeconfigs, verify the API server's certificate."""

    server_name: ServerName | None = key(
        "A name that the certificate must have; kubeadm's certificates have `kubernetes`.",
        "kubernetes",
        default=None,
        unset="the host of the first of `api_servers`",
    )
    ca_file: FilePath | None = key(
        "The certificates of its CA (PEM).",
        "/etc/kubemux/ca/prod-eu.crt",
        default=None,
        unset="the CAs of the system",
        file=Kind.CERTIFICATES,
    )


class ProbeConfig(Section):
    """The HTTPS GET that shows whether the cluster is up, sent by the same path as a client's bytes."""

    path: UrlPath = key("The path of the request, below `base_path`.", default="/healthz")
    interval: Duration = key("The time from one probe to the next.", default=10.0, least=_LEAST, most=_DAY)
    timeout: Duration = key("How long a probe may take.", default=5.0, least=_LEAST, most=_DAY)
    token_file: FilePath | None = key(
        "A file with a bearer token, which is sent only to a verified server.",
        "/etc/kubemux/tokens/prod-eu",
        default=None,
        unset="none (probes are anonymous; 401 and 403 count as alive)",
        file=Kind.SECRET,
    )
    client_cert: FilePath | None = key(
        "A client certificate (PEM), instead of a token.",
        "/etc/kubemux/certs/prod-us.crt",
        default=None,
        unset="none (probes are anonymous)",
        file=Kind.CERTIFICATES,
    )
    client_key: FilePath | None = key(
        "The private key of `client_cert`.",
        "/etc/kubemux/certs/prod-us.key",
        default=None,
        unset="none (probes are anonymous)",
        file=Kind.SECRET,
    )
    threshold: Whole = key(
        "How many equal results in a row change the state from up to down, or from down to up.",
        default=2,
        least=1,
    )
    keep_up: Switch = key(
        "Whether probes count as clients of an on-demand gateway. Then they cause a dial, and keep the "
        "gateway up. Otherwise the cluster is probed only while the gateway has a link.",
        True,
        default=False,
    )


class ClusterConfig(Section):
    """One Kubernetes API server, or several of one cluster."""

    gateway: Name = key(
        "The gateway or site of the cluster; `direct` means without SSH.", "eu-edge", DIRECT, elsewhere=True
    )
    listen: Listen | None = key(
        "The cluster's own local address, with IPv6 in brackets (`[::1]:16443`), or a unix socket.",
        "127.0.0.1:16443",
        "unix:/run/kubemux-entries/prod-eu.sock",
        default=None,
        unset="none (the cluster is reached by its name, through one of `entries`)",
        elsewhere=True,
    )
    mode: Mode | None = key(MODE, "0660", default=None, unset="0600 (the daemon's user alone)")
    group: Name | None = key(GROUP, "kube", default=None, unset="the daemon's")
    allow_remote: Switch = key(
        "Whether `listen` may be an address that other machines can reach.",
        True,
        default=False,
    )
    api_servers: tuple[Address, ...] = key(
        "Its API servers, as the gateway's sshd reaches them. If one refuses a connection, kubemux tries the "
        "next one for the same client, and moves the one that refused to the end of the list.",
        ["10.0.0.10:6443"],
        min_length=1,
        elsewhere=True,
    )
    dns_name: HostName | None = key(
        "Another name by which clients can ask for the cluster. It is needed if the cluster's name is no "
        "host name, as ARNs and `kubernetes-admin@kubernetes`. Case does not matter.",
        "prod-eu.k8s.example.com",
        default=None,
        unset="none (clients ask for the cluster's name)",
    )
    allow: tuple[Allowed, ...] | None = key(
        "The callers that may connect. `any` allows everybody, also callers without a known identity.",
        ["gid:sre", "proxy-user:ci"],
        default=None,
        unset="everybody who can reach the address, or whom the entry allows",
        min_length=1,
    )
    base_path: BasePath | None = key(
        "The path of the API server's URL, if several clusters share one address (as with Rancher). Probes "
        "and exported kubeconfigs use it.",
        "/k8s/clusters/c-1",
        default=None,
        unset="none",
    )
    max_connections: Whole | None = key(
        "The maximum number of client connections of this cluster. `limits.max_connections` applies, too. "
        "Further ones are reset (`cluster_limit`). After a reload, open connections count, too.",
        2000,
        default=None,
        unset="none (only `limits.max_connections` limits it)",
        least=1,
    )
    # At least 1 s, because the daemon checks connections no more often than every half a second.
    idle_timeout: Duration | None = key(
        "A connection without a byte in either direction for this long is reset (`idle`), at most a quarter "
        "of that time late. A reload also applies it to open connections.",
        "1h",
        default=None,
        unset="none (an idle connection stays, because watches may be idle for long)",
        least=1.0,
        most=_DAY,
    )
    tls: TlsConfig = key("How the API server's certificate is verified.", default=TlsConfig())
    probe: ProbeConfig = key("How kubemux finds out whether the cluster is up.", default=ProbeConfig())

    @property
    def server_name(self) -> str:
        """The name or IP address that the API server's certificate must contain."""
        return self.tls.server_name or self.api_servers[0].host


class Config(Section):
    """The whole file. The loader has merged `defaults:` into the entries."""

    version: Whole = key("The version of this format.", VERSION, least=VERSION, most=VERSION)
    admin: AdminConfig = key("Where the daemon shows its state and accepts orders.", default=AdminConfig())
    log: LogConfig = key("What the daemon writes to standard error.", default=LogConfig())
    limits: LimitsConfig = key("Limits of the whole daemon.", default=LimitsConfig())
    gateways: dict[Name, GatewayConfig] = key(
        f"SSH servers by name: any printable text but `{DIRECT}`.", default_factory=dict
    )
    clusters: dict[Name, ClusterConfig] = key(
        "Kubernetes clusters by name: any printable text, kubeconfig contexts may be ARNs.",
        default_factory=dict,
    )
    routes: tuple[RouteConfig, ...] = key(
        "Other names and addresses that clients may ask for. The first route that matches applies.",
        default=(),
        unset="none",
    )
    entries: dict[Name, EntryConfig] = key(
        "Addresses by name, where clients ask for a cluster by HTTP CONNECT or SOCKS5.", default_factory=dict
    )
    ssh_server: SshServerConfig | None = key(
        "The SSH server of kubemux, for sites and for users of `ssh -J`.",
        {"listen": "0.0.0.0:2222", "allow_remote": True, "host_keys": ["/etc/kubemux/ssh_host_ed25519_key"]},
        default=None,
        unset="none",
    )
    sites: dict[Name, SiteConfig] = key(
        f"SSH clients that dial kubemux, by name: host names in lower case, but not `{DIRECT}`.",
        default_factory=dict,
    )
    users: dict[Name, UserConfig] = key("Users of the SSH server, by name.", default_factory=dict)


DEFAULTS: Final[dict[str, tuple[str, type[Section]]]] = {
    "gateway": ("gateways", GatewayConfig),
    "cluster": ("clusters", ClusterConfig),
}
"""Each key of `defaults:`, the section whose entries get its values, and the type of the entries."""
