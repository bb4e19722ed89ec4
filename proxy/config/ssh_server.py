"""The sections of the configuration for our SSH server and its clients: sites and users."""

from __future__ import annotations

from proxy.config.gateways import MOST_CONNECTIONS, KeepaliveConfig
from proxy.config.keys import Kind, Section, key
from proxy.config.matches import Pattern
from proxy.config.networks import Network
from proxy.config.values import Address, Duration, FilePath, Switch, Whole, Word

_LEAST = 0.01
_DAY = 86400.0
MOST_STARTUPS = 10_000

_AUTHORIZED_KEYS = (
    "Files of public keys as sshd(8) reads them, with their options. An option that kubemux does not enforce "
    "refuses its key."
)
_CERT_AUTHORITY = (
    "Files of public keys of CAs. A certificate of such a CA is accepted if it has one of `principals`."
)


class SourceConfig(Section):
    """The operator's own networks, whose clients get no penalties and may log in many at a time."""

    networks: tuple[Network, ...] = key(
        "The networks or addresses of the clients.", ["10.20.0.0/16", "192.0.2.7"], min_length=1
    )
    max_startups: Whole = key(
        "The maximum number of connections from these networks that have not logged in yet. They are counted "
        "separately. As many as the server's own `max_startups` log in at a time, and the others wait.",
        default=2000,
        least=1,
        most=MOST_STARTUPS,
    )


class SshServerConfig(Section):
    """The SSH server of kubemux, where sites and users log in with keys."""

    listen: Address = key("The local address.", "0.0.0.0:2222", "127.0.0.1:2222", elsewhere=True)
    allow_remote: Switch = key(
        "Whether `listen` may be an address that other machines can reach.", True, default=False
    )
    host_keys: tuple[FilePath, ...] = key(
        "The server's private keys, without a passphrase. `kubemux ssh-server keygen` makes missing ones.",
        ["/etc/kubemux/ssh_host_ed25519_key"],
        min_length=1,
        file=Kind.HOST_KEY,
    )
    revoked_keys: tuple[FilePath, ...] = key(
        "Files of public keys, of clients and of CAs, that are never accepted.",
        ["/etc/kubemux/revoked_keys"],
        default=(),
        unset="none",
        file=Kind.REVOKED,
    )
    max_startups: Whole = key(
        "The maximum number of connections that have not logged in yet. Further ones are closed.",
        default=100,
        least=1,
        most=MOST_STARTUPS,
    )
    per_source_max_startups: Whole = key(
        "The same limit for each address (for each /64 with IPv6).", default=10, least=1, most=MOST_STARTUPS
    )
    login_timeout: Duration = key("How long a login may take.", default=20.0, least=1.0, most=600.0)
    sources: tuple[SourceConfig, ...] = key(
        "Your own networks, with their own limits. The first item that includes an address applies.",
        default=(),
        unset="none",
    )


class UserConfig(Section):
    """A user of `ssh -J`, `-W`, `-L` and `-D`, who is `ssh-user:NAME` in `allow`."""

    authorized_keys: tuple[FilePath, ...] = key(
        _AUTHORIZED_KEYS,
        ["/etc/kubemux/users/ops.pub"],
        default=(),
        unset="none (the user has `cert_authority`)",
        file=Kind.AUTHORIZED_KEYS,
    )
    cert_authority: tuple[FilePath, ...] = key(
        _CERT_AUTHORITY,
        ["/etc/kubemux/user_ca.pub"],
        default=(),
        unset="none (the user has `authorized_keys`)",
        file=Kind.AUTHORITIES,
    )
    principals: tuple[Word, ...] | None = key(
        "A certificate with one of these principals is this user's.",
        ["ops", "sre"],
        default=None,
        unset="the user's own name",
        min_length=1,
    )
    connections: Whole = key(
        "The maximum number of SSH connections of the user. Further ones are refused.",
        default=100,
        least=1,
        most=10_000,
    )
    max_channels: Whole = key(
        "The maximum number of channels of the user, over all its connections. Further ones are refused.",
        default=1000,
        least=1,
        most=100_000,
    )


class SiteKeepaliveConfig(KeepaliveConfig):
    """When a link is closed because its site does not answer."""

    interval: Duration = key(
        "About how often kubemux sends the site a keepalive, which it must answer.",
        default=5.0,
        least=_LEAST,
        most=_DAY,
    )
    max_missed: Whole = key(
        "The link is closed when the site has not answered for `interval` times this number.",
        default=2,
        least=1,
    )


class SiteConfig(Section):
    """An SSH client that logs in to kubemux, which then reaches through it what the site can reach."""

    authorized_keys: tuple[FilePath, ...] = key(
        _AUTHORIZED_KEYS,
        ["/etc/kubemux/sites/factory-7.pub"],
        default=(),
        unset="none (the site has `cert_authority`)",
        file=Kind.AUTHORIZED_KEYS,
    )
    cert_authority: tuple[FilePath, ...] = key(
        _CERT_AUTHORITY,
        ["/etc/kubemux/site_ca.pub"],
        default=(),
        unset="none (the site has `authorized_keys`)",
        file=Kind.AUTHORITIES,
    )
    principals: tuple[Word, ...] | None = key(
        "A certificate with one of these principals is this site's.",
        ["factory-7"],
        default=None,
        unset="the site's own name",
        min_length=1,
    )
    permit: tuple[Pattern, ...] = key(
        "Targets that clients may ask the site for, as in `match` of a route. It also applies to API servers "
        "and to targets of routes.",
        ["127.0.0.1:6443", "10.1.0.0/16:22"],
        default=(),
        unset="nothing",
    )
    connections: Whole = key(
        "The maximum number of SSH connections (links) of the site. A further one replaces the oldest, whose "
        "clients keep their connections.",
        default=2,
        least=1,
        most=MOST_CONNECTIONS,
    )
    keepalive: SiteKeepaliveConfig = key(
        "When a link is closed because its site does not answer.", default=SiteKeepaliveConfig()
    )
    connect_timeout: Duration = key(
        "How long the site may take to connect to a target.", default=10.0, least=_LEAST, most=_DAY
    )
    retire_timeout: Duration = key(
        "How long clients may keep their connections on a replaced link.", default=600.0, least=0, most=_DAY
    )
    max_channels: Whole = key(
        "The maximum number of channels that the site itself opens, on one link.",
        default=1000,
        least=1,
        most=100_000,
    )
    max_forwards: Whole = key(
        "The maximum number of forwards (`-R`) of the site, on one link.",
        default=64,
        least=1,
        most=1000,
    )

    @property
    def max_link_age(self) -> None:
        """None: the site makes its links itself, so kubemux cannot replace an old one."""
