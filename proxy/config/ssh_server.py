"""The part of the model about SSH clients that dial us: sites, which are ways, and users, who jump."""

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
    "Files of public keys of CAs: a certificate of one of them that holds one of `principals` is enough."
)


class SourceConfig(Section):
    """Networks of one's own: their clients are never penalised, and may come many at a time."""

    networks: tuple[Network, ...] = key("Where they come from.", ["10.20.0.0/16", "192.0.2.7"], min_length=1)
    max_startups: Whole = key(
        "Connections from there at a time that have not logged in. They count apart from all others. As many "
        "as `max_startups` of the server get on with their login, and the others wait. One more is closed.",
        default=2000,
        least=1,
        most=MOST_STARTUPS,
    )


class SshServerConfig(Section):
    """The SSH server of kubemux itself, where sites and users log in, by keys alone."""

    listen: Address = key("The local address.", "0.0.0.0:2222", "127.0.0.1:2222", elsewhere=True)
    allow_remote: Switch = key(
        "Whether `listen` may be an address that other machines can reach.", True, default=False
    )
    host_keys: tuple[FilePath, ...] = key(
        "The server's private keys, without a passphrase. `kubemux ssh-server keygen` makes those that are "
        "not there.",
        ["/etc/kubemux/ssh_host_ed25519_key"],
        min_length=1,
        file=Kind.HOST_KEY,
    )
    revoked_keys: tuple[FilePath, ...] = key(
        "Files of public keys that let nobody in, whoever has them: keys, and CAs.",
        ["/etc/kubemux/revoked_keys"],
        default=(),
        unset="none",
        file=Kind.REVOKED,
    )
    max_startups: Whole = key(
        "Connections at a time that have not logged in. One more is closed.",
        default=100,
        least=1,
        most=MOST_STARTUPS,
    )
    per_source_max_startups: Whole = key(
        "The same, of one address (of one /64 with IPv6).", default=10, least=1, most=MOST_STARTUPS
    )
    login_timeout: Duration = key("How long a login may take.", default=20.0, least=1.0, most=600.0)
    sources: tuple[SourceConfig, ...] = key(
        "Networks of one's own, with limits of their own. The first that has an address decides.",
        default=(),
        unset="none",
    )


class UserConfig(Section):
    """Who jumps by `ssh -J`, `-W`, `-L` and `-D`; `allow` knows them as `ssh-user:NAME`."""

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
        "The names that make a certificate this user's.",
        ["ops", "sre"],
        default=None,
        unset="the user's own name",
        min_length=1,
    )
    max_channels: Whole = key(
        "Channels of one connection at a time. One more is refused.", default=1000, least=1, most=100_000
    )


class SiteKeepaliveConfig(KeepaliveConfig):
    """When a link is closed because its site is silent."""

    interval: Duration = key(
        "How long the site may be silent before it is asked whether it is there.",
        default=5.0,
        least=_LEAST,
        most=_DAY,
    )
    max_missed: Whole = key(
        "The link is closed when its site was silent for `interval` times this number.", default=2, least=1
    )


class SiteConfig(Section):
    """An SSH client that dials us, and is a way to what it can reach: a gateway the other way round."""

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
        "The names that make a certificate this site's.",
        ["factory-7"],
        default=None,
        unset="the site's own name",
        min_length=1,
    )
    permit: tuple[Pattern, ...] = key(
        "What may be asked of the site, as in `match` of a route; API servers and targets of routes, too.",
        ["127.0.0.1:6443", "10.1.0.0/16:22"],
        default=(),
        unset="nothing",
    )
    connections: Whole = key(
        "SSH connections (links) of the site at a time. One more replaces the oldest, whose clients keep "
        "their connections.",
        default=2,
        least=1,
        most=MOST_CONNECTIONS,
    )
    keepalive: SiteKeepaliveConfig = key(
        "When a link is closed because its site is silent.", default=SiteKeepaliveConfig()
    )
    connect_timeout: Duration = key(
        "How long the site may take to connect to a target.", default=10.0, least=_LEAST, most=_DAY
    )
    retire_timeout: Duration = key(
        "How long the connections of a link that was replaced may go on.", default=600.0, least=0, most=_DAY
    )
    max_channels: Whole = key(
        "Channels that the site itself has open at a time, on one link. One more is refused.",
        default=1000,
        least=1,
        most=100_000,
    )
    max_forwards: Whole = key(
        "Forwards (`-R`) of the site at a time, on one link. One more is refused.",
        default=64,
        least=1,
        most=1000,
    )

    @property
    def max_link_age(self) -> None:
        """A site makes its links itself: kubemux cannot replace an old one."""
