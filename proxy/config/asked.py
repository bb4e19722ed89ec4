"""The part of the model about names that clients ask for: the entries where they ask, and the routes."""

from __future__ import annotations

from pathlib import Path

from proxy.config.allow import ANY, Allowed
from proxy.config.discover import DiscoverConfig
from proxy.config.keys import Kind, Section, key
from proxy.config.listen import GROUP, MODE, Listen, Mode
from proxy.config.matches import Leading, Pattern
from proxy.config.values import DIRECT, FilePath, Name, Switch


class RouteConfig(Section):
    """What else clients may ask for by name, and which way it leads; the first that matches decides."""

    name: Name = key("Its name in messages, of this route alone.", "eu-hosts")
    match: tuple[Pattern, ...] = key(
        "What clients may ask for, each with a port, a range (`:2000-2999`) or all ports (`:*`). In a name, "
        "`*` stands for a part of a label, `**` for whole labels. A network, or one address, matches "
        "addresses.",
        ["*.eu.internal:22", "10.0.0.0/16:2209"],
        default=(),
        unset="none (the route has `discover`)",
    )
    discover: DiscoverConfig | None = key(
        "Pods, in place of `match` and `target`. `NAME.NAMESPACE` means the pod's current address.",
        {"cluster": "prod-eu", "selector": "app=notebook", "port": 2209},
        default=None,
        unset="none (the route has `match`)",
        elsewhere=True,
    )
    gateway: Name = key(
        "The gateway or site of the route; `direct` means without SSH.", "eu-edge", DIRECT, elsewhere=True
    )
    target: Leading | None = key(
        "The address to which the gateway connects. `{host}` and `{port}` stand for the requested host and "
        "port, `{1}` for the text that the first star of `match` matches.",
        "{1}.notebooks.svc:2209",
        default=None,
        unset="the requested host and port",
        elsewhere=True,
    )
    allow: tuple[Allowed, ...] | None = key(
        "The callers that may use the route. `any` allows everybody, also callers without a known identity.",
        ["gid:sre", "proxy-user:ci"],
        default=None,
        unset="the callers that the entry allows",
        min_length=1,
    )
    entries: tuple[Name, ...] | None = key(
        "The entries whose clients may use the route. It is ignored at other entries.",
        ["egress"],
        default=None,
        unset="all",
        min_length=1,
    )


class EntryTlsConfig(Section):
    """The entry's certificate, and the certificates that its clients need."""

    cert_file: FilePath | None = key(
        "The certificate of the entry, followed by the intermediate certificates (PEM).",
        "/etc/kubemux/entries/remote.crt",
        default=None,
        unset="none (the entry does not use TLS)",
        file=Kind.CERTIFICATES,
    )
    key_file: FilePath | None = key(
        "The private key of `cert_file` (PEM), without a passphrase.",
        "/etc/kubemux/entries/remote.key",
        default=None,
        unset="none (the entry does not use TLS)",
        file=Kind.SECRET,
    )
    client_ca_file: FilePath | None = key(
        "CAs (PEM). Each client must show a certificate of one of them. `cert:NAME` in `allow` matches the "
        "names in that certificate.",
        "/etc/kubemux/entries/clients.crt",
        default=None,
        unset="none (clients need no certificate)",
        file=Kind.CERTIFICATES,
    )

    @property
    def files(self) -> tuple[Path, Path, Path | None] | None:
        """The certificate, its key, and the CAs of clients; None without TLS."""
        if self.cert_file is None or self.key_file is None:
            return None
        return self.cert_file, self.key_file, self.client_ca_file


class EntryConfig(Section):
    """An address where clients ask for a destination by name, by HTTP CONNECT or SOCKS5."""

    listen: Listen = key(
        "The local address, or a unix socket.",
        "127.0.0.1:3128",
        "unix:/run/kubemux-entries/proxy.sock",
        elsewhere=True,
    )
    mode: Mode | None = key(MODE, "0660", default=None, unset="0600 (the daemon's user alone)")
    group: Name | None = key(GROUP, "kube", default=None, unset="the daemon's")
    allow_remote: Switch = key(
        "Whether `listen` may be an address that other machines can reach.", True, default=False
    )
    tls: EntryTlsConfig = key("TLS between clients and the entry.", default=EntryTlsConfig())
    users_file: FilePath | None = key(
        "Users and passwords, as `htpasswd -B` writes them. Each client must log in as one of these users. "
        "In `allow`, the user is `proxy-user:NAME`.",
        "/etc/kubemux/entries/users",
        default=None,
        unset="none (clients need no password)",
        file=Kind.USERS,
    )
    allow: tuple[Allowed, ...] | None = key(
        "The callers that may use the entry. The `allow` of the destination is checked, too. `any` allows "
        "everybody, also callers without a known identity.",
        ["gid:sre", "cert:ci.example.com"],
        default=None,
        unset="everybody who can reach the address and has the required certificate or password",
        min_length=1,
    )

    @property
    def authenticates(self) -> bool:
        """Whether each client proves its identity."""
        return self.tls.client_ca_file is not None or self.users_file is not None

    @property
    def lets_anybody_in(self) -> bool:
        """Whether `allow` has the rule `any`."""
        return self.allow is not None and any(rule.kind == ANY for rule in self.allow)
