"""The keys of a gateway: one SSH server, and how the daemon keeps its links (`proxy.config.model`)."""

from __future__ import annotations

from typing import Final, Literal

from proxy.config.hosts import ANY_HOST
from proxy.config.keys import Kind, Section, key
from proxy.config.values import Duration, FilePath, Name, Switch, Whole, Word

MOST_CONNECTIONS: Final = 16
"""The maximum number of links of a gateway."""
_LEAST = 0.01
_DAY = 86400.0


class KeepaliveConfig(Section):
    """When a link is closed because its SSH server does not answer."""

    interval: Duration = key(
        "About how often kubemux sends the server a keepalive, which it must answer.",
        default=15.0,
        least=_LEAST,
        most=_DAY,
    )
    max_missed: Whole = key(
        "The link is closed when the server has not answered for `interval` times this number. Half of that "
        "is enough if the server's TCP does not acknowledge sent bytes.",
        default=3,
        least=1,
    )


class GatewayConfig(Section):
    """One SSH server; where a key is left out, `ssh_config` applies, otherwise OpenSSH's default."""

    host: Word = key(
        "The SSH server: a name, an address, or an alias in `ssh_config`. `{host}` is the host that a client "
        "asks for: then the gateway is a pattern, which only routes can use, and is always on demand.",
        "bastion.example.com",
        ANY_HOST,
        elsewhere=True,
    )
    port: Whole | None = key(
        "The port of the SSH server.",
        2222,
        default=None,
        unset="from `ssh_config`, else 22",
        least=1,
        most=65535,
        elsewhere=True,
    )
    user: Word | None = key(
        "The user to log in as.",
        "tunnel",
        default=None,
        unset="from `ssh_config`, else the user that runs kubemux",
        elsewhere=True,
    )
    identity_files: tuple[FilePath, ...] = key(
        "Private keys to log in with. A key that others may read is refused: chmod 600.",
        ["/etc/kubemux/keys/eu-edge"],
        default=(),
        unset="from `ssh_config`",
        at_home=["~/.ssh/id_ed25519"],
        file=Kind.PRIVATE_KEY,
    )
    certificate_files: tuple[FilePath, ...] = key(
        "OpenSSH certificates for those keys. `KEY-cert.pub` beside a key need not be listed.",
        ["/etc/kubemux/keys/eu-edge-cert.pub"],
        default=(),
        unset="from `ssh_config`",
        file=Kind.TEXT,
    )
    passphrase_file: FilePath | None = key(
        "A file with the passphrase of those keys.",
        "/etc/kubemux/keys/eu-edge.passphrase",
        default=None,
        unset="none (the keys must have no passphrase)",
        file=Kind.SECRET,
    )
    agent: Switch = key(
        "Whether to log in with the keys of the ssh-agent at $SSH_AUTH_SOCK.", True, default=False
    )
    known_hosts: tuple[FilePath, ...] = key(
        "Files with the server's host key. As ssh(1) does, kubemux searches them for the name in `host` (or "
        "`HostKeyAlias`), never for the address. Hashed names, wildcards, `@cert-authority` and `@revoked` "
        "work. A line that cannot be read is skipped, and `kubemux check` names it. Host keys are always "
        "checked.",
        ["/etc/kubemux/known_hosts"],
        default=(),
        unset="from `ssh_config`",
        at_home=["~/.ssh/known_hosts"],
        file=Kind.KNOWN_HOSTS,
    )
    jump: tuple[Name, ...] = key(
        "Other gateways on the way, dialled in this order before this one.",
        ["hq"],
        default=(),
        unset="from `ssh_config`",
        elsewhere=True,
    )
    connections: Whole = key(
        "SSH connections (links), shared by all clusters behind the gateway. A new channel uses the least "
        "busy link. If several are equally busy, it uses the link of the last channel to that API server.",
        default=2,
        least=1,
        most=MOST_CONNECTIONS,
        in_place=True,
    )
    connect_timeout: Duration = key(
        "How long TCP, key exchange and login may take together.",
        default=10.0,
        least=_LEAST,
        most=_DAY,
        in_place=True,
    )
    dial: Literal["always", "on_demand"] = key(
        "When the gateway has links: `always`, or only while clients use it (`on_demand`). On demand, the "
        "first client causes a dial. It and later clients wait for the dial up to `connect_timeout`, even "
        "if `hold_timeout` is shorter. If the dial fails, these clients are reset, and so are clients that "
        "come before the next dial is due.",
        "on_demand",
        default="always",
        in_place=True,
    )
    # At least 1 s, because the daemon checks no more often than every half a second.
    idle_timeout: Duration = key(
        "How long an on-demand gateway keeps its links after its last client's connection has ended.",
        default=600.0,
        least=1.0,
        most=_DAY,
        in_place=True,
    )
    max_hosts: Whole = key(
        "The maximum number of hosts of a pattern. For a further host, kubemux forgets the host that was "
        "unused for longest. If clients use all of them, the new client is refused (`host_limit`).",
        default=500,
        least=1,
        most=10_000,
        in_place=True,
    )
    keepalive: KeepaliveConfig = key(
        "When a link is closed because its server does not answer.", default=KeepaliveConfig(), in_place=True
    )
    max_link_age: Duration | None = key(
        "Links that are older are replaced. The new link is made first, and clients keep their connections.",
        "24h",
        default=None,
        unset="none (no link is replaced because of its age)",
        least=_LEAST,
        most=_DAY,
        in_place=True,
    )
    retire_timeout: Duration = key(
        "How long clients may keep their connections on a replaced link.",
        default=600.0,
        least=0,
        most=_DAY,
        in_place=True,
    )
    ssh_config: FilePath | None = key(
        "An ssh_config(5) file, read by `ssh -G` of this machine. `host` may be an alias in it. "
        "Its options apply where the gateway does not set the key.",
        "/etc/kubemux/ssh_config",
        default=None,
        unset="none",
        elsewhere=True,
        file=Kind.TEXT,
    )
    learned_host_keys: FilePath | None = key(
        "A file that only the daemon writes, for new host keys that the server announces before it uses them "
        "(UpdateHostKeys of ssh_config(5)).",
        "/var/lib/kubemux/host_keys",
        default=None,
        unset="none (no host key is learned)",
    )

    @property
    def is_pattern(self) -> bool:
        """Whether each host that is asked for is a gateway of its own."""
        return self.host == ANY_HOST

    @property
    def is_on_demand(self) -> bool:
        """Whether it has links only while clients use it."""
        return self.is_pattern or self.dial == "on_demand"

    def for_host(self, host: str) -> GatewayConfig:
        """The gateway of one host of a pattern."""
        return self.model_copy(update={"host": host, "dial": "on_demand"})
