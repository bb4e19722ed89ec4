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
    """Where the daemon answers questions (TCP, read only) and takes orders (unix socket)."""

    listen: Address = key(
        "The address of /metrics, /healthz, /readyz and /status: read only, and without a password.",
        default=Endpoint("127.0.0.1", 9464),
    )
    socket: FilePath | None = key(
        "A unix socket, mode 0600, for reload, reconnect, drain and probe.",
        "/run/kubemux/admin.sock",
        default=None,
        unset="none (the daemon takes no orders)",
        at_home="~/.config/kubemux/admin.sock",
    )
    allow_remote: Switch = key(
        "Whether `listen` may be an address that other machines can reach.", True, default=False
    )


class LogConfig(Section):
    """What the daemon writes to standard error."""

    format: Literal["json", "console"] = key(
        "json writes an object on each line, console writes for people.", default="json"
    )
    level: Literal["debug", "info", "warning", "error"] = key(
        "The least important messages that are written.", default="info"
    )


class LimitsConfig(Section):
    """Limits of the whole daemon."""

    max_connections: Whole = key(
        "Client connections at a time, over all clusters, those that wait for a link included. Further ones "
        "are reset. The daemon accepts fewer if it may not open so many files (`LimitNOFILE=`).",
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
        "How long a new client waits while no link is up, or while all of `memory` is in use; then it is "
        "reset. If that state has already lasted longer, new clients do not wait: without a link, "
        "connections are refused until a link is up. 0s: no client waits.",
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
    """What the API server's certificate is checked against, by probes and in exported kubeconfigs."""

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
    """The HTTPS GET that says whether the cluster is up, through the same path as a client's bytes."""

    path: UrlPath = key("The path of the request, below `base_path`.", default="/healthz")
    interval: Duration = key("The time from one probe to the next.", default=10.0, least=_LEAST, most=_DAY)
    timeout: Duration = key("How long a probe may take.", default=5.0, least=_LEAST, most=_DAY)
    token_file: FilePath | None = key(
        "A file with a bearer token, sent only to a server that was verified.",
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
        "How many equal results in a row change the state from up to down, or back.", default=2, least=1
    )
    keep_up: Switch = key(
        "Whether probes are clients of a gateway that is dialled on demand: then they have it dialled, and "
        "keep it up. Otherwise the cluster is probed only while the gateway has a link.",
        True,
        default=False,
    )


class ClusterConfig(Section):
    """One Kubernetes API server, or several of one cluster."""

    gateway: Name = key(
        "The gateway that leads there; `direct` means without SSH.", "eu-edge", DIRECT, elsewhere=True
    )
    listen: Listen | None = key(
        "The local address, of this cluster alone; IPv6 in brackets: `[::1]:16443`; or a unix socket.",
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
        "Its API servers, as the gateway's sshd sees them. If one refuses a connection, the same client gets "
        "the next one, and the one that refused goes to the end of the list.",
        ["10.0.0.10:6443"],
        min_length=1,
        elsewhere=True,
    )
    dns_name: HostName | None = key(
        "Another name to ask for it by, where its own is no host name, as ARNs and "
        "`kubernetes-admin@kubernetes` are not. Case does not count.",
        "prod-eu.k8s.example.com",
        default=None,
        unset="none (it is asked for by its name)",
    )
    allow: tuple[Allowed, ...] | None = key(
        "Who may. `any` lets everybody in, callers that nobody knows included.",
        ["gid:sre", "proxy-user:ci"],
        default=None,
        unset="everybody who can reach the address, or whom the entry lets in",
        min_length=1,
    )
    base_path: BasePath | None = key(
        "The path of the API server's URL, where several clusters share one address (as at Rancher). Probes "
        "and exported kubeconfigs use it.",
        "/k8s/clusters/c-1",
        default=None,
        unset="none",
    )
    max_connections: Whole | None = key(
        "Client connections of this cluster at a time, within the daemon's. Further ones are reset "
        "(`cluster_limit`). A reload also applies it to connections that are open.",
        2000,
        default=None,
        unset="none (only `limits.max_connections` limits it)",
        least=1,
    )
    # At least 1 s, because the daemon checks connections no more often than every half a second.
    idle_timeout: Duration | None = key(
        "A connection on which no byte goes either way for this long is reset (`idle`), at most a quarter of "
        "that time late. A reload also applies it to connections that are open.",
        "1h",
        default=None,
        unset="none (a silent connection stays, because watches may be silent for long)",
        least=1.0,
        most=_DAY,
    )
    tls: TlsConfig = key("What the API server's certificate is checked against.", default=TlsConfig())
    probe: ProbeConfig = key("How kubemux finds out whether the cluster is up.", default=ProbeConfig())

    @property
    def server_name(self) -> str:
        """The name or IP address that the API server's certificate must contain."""
        return self.tls.server_name or self.api_servers[0].host


class Config(Section):
    """The whole file. The loader has merged `defaults:` into the entries."""

    version: Whole = key("The version of this format.", VERSION, least=VERSION, most=VERSION)
    admin: AdminConfig = key("Where the daemon answers questions and takes orders.", default=AdminConfig())
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
        "What else clients may ask for by name, in the order in which it is looked for.",
        default=(),
        unset="none",
    )
    entries: dict[Name, EntryConfig] = key(
        "Addresses by name, where clients ask for a cluster by HTTP CONNECT or SOCKS5.", default_factory=dict
    )
    ssh_server: SshServerConfig | None = key(
        "The SSH server of kubemux itself, for sites and for users who jump.",
        {"listen": "0.0.0.0:2222", "allow_remote": True, "host_keys": ["/etc/kubemux/ssh_host_ed25519_key"]},
        default=None,
        unset="none",
    )
    sites: dict[Name, SiteConfig] = key(
        f"SSH clients by name that dial us, and are ways then: host names but `{DIRECT}`, in lower case.",
        default_factory=dict,
    )
    users: dict[Name, UserConfig] = key("Who may jump through the SSH server, by name.", default_factory=dict)


DEFAULTS: Final[dict[str, tuple[str, type[Section]]]] = {
    "gateway": ("gateways", GatewayConfig),
    "cluster": ("clusters", ClusterConfig),
}
"""Each key of `defaults:`, the section whose entries get its values, and the type of the entries."""
