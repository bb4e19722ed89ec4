"""Everything that can go wrong, as one tree.

Each class carries a stable `reason`: the same word is the metric label, the log field and the word in
`kubemux status`. `stage` says how far a connection got (see `Stage`), `hint` tells an operator what to do
about it. Exceptions of other libraries are translated into these at one boundary each: asyncssh's in
`proxy/ssh`, ssl's and h11's in `proxy/health`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from proxy.runtime.text import suggest


class Stage(StrEnum):
    """The steps a connection takes to an API server, in order (`kubemux probe` prints one line for each)."""

    TCP = "tcp"
    SSH = "ssh"
    AUTH = "auth"
    CHANNEL = "channel"
    TLS = "tls"
    HTTP = "http"


class ProxyError(Exception):
    """The root. `str()` is one sentence for an operator; `hint` says what to do."""

    reason: ClassVar[str] = "internal"
    hint: str = ""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        if hint is not None:
            self.hint = hint


class UnknownName(ProxyError):
    """A cluster, gateway or context that there is not; the hint has the closest of those there are.

    Exit code 2.
    """

    reason = "unknown_name"

    @classmethod
    def among(cls, kind: str, name: str, known: Iterable[str]) -> UnknownName:
        """`name` is not in `known`."""
        return cls(f"no {kind} is called {name!r}", hint=suggest(name, sorted(known)))


# ---------------------------------------------------------------------------------------------- configuration


MAX_PROBLEMS = 200
"""In one report: a log line of 30,000 problems is 11 MB, and helps nobody."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a file: where, what, and the remedy.

    `line` counts from 1 and is 0 if unknown; `key` reads like `clusters.prod.listen`.
    """

    line: int
    key: str
    message: str
    hint: str = ""


class ConfigError(ProxyError):
    """A configuration (or kubeconfig) that cannot be used.

    Holds every problem found, up to a readable number.
    """

    reason = "config"

    def __init__(self, path: str, problems: list[Problem]) -> None:
        super().__init__(f"{path}: {len(problems)} problem{'s' if len(problems) != 1 else ''}")
        self.path = path
        self.problems = problems[:MAX_PROBLEMS]
        if (more := len(problems) - MAX_PROBLEMS) > 0:
            self.problems.append(Problem(0, "", f"{more} more problems are not shown"))

    def render(self) -> str:
        """The whole report, a line or two for each problem: `FILE:LINE: KEY: what is wrong` and `  hint:
        remedy`.
        """
        lines = []
        for problem in self.problems:
            where = f"{self.path}:{problem.line}" if problem.line else self.path
            lines.append(f"{where}: {problem.key + ': ' if problem.key else ''}{problem.message}")
            if problem.hint:
                lines.append(f"  hint: {problem.hint}")
        return "\n".join(lines)


class UnknownNames(ConfigError):
    """What a command was asked for is not in the file: its report, and the exit code of UnknownName."""

    reason = UnknownName.reason


# -------------------------------------------------------------------------------------------------- the SSH
# side


class RetryClass(StrEnum):
    """How soon it makes sense to dial again after a failure (see `proxy/ssh/governor.py`)."""

    SOON = "soon"
    SLOW = "slow"


class LinkError(ProxyError):
    """A link could not be brought up, or was lost."""

    reason = "link_failed"
    stage: Stage = Stage.SSH
    retry: RetryClass = RetryClass.SOON
    is_counted: bool = True
    """If it is retried slowly: sshd, too, counts it against our address (PerSourcePenalties)."""


class Unresolvable(LinkError):
    """The gateway's name does not resolve."""

    reason = "unresolvable"
    stage = Stage.TCP
    hint = "check gateways.*.host (and ssh_config's HostName), and the bastion's resolver: getent hosts NAME"


class Unreachable(LinkError):
    """TCP to sshd failed: refused, no route, reset."""

    reason = "unreachable"
    stage = Stage.TCP
    hint = "is sshd running there, and does a firewall let this machine through?"


class ConnectTimeout(LinkError):
    """sshd did not answer, or did not finish the handshake, within `connect_timeout`."""

    reason = "connect_timeout"
    stage = Stage.TCP
    hint = (
        "packets may be dropped on the way, or sshd is overloaded (MaxStartups); raise connect_timeout "
        "if it is only slow"
    )


class ProxyCommandFailed(LinkError):
    """The ProxyCommand of ssh_config could not be run, or has ended."""

    reason = "proxy_command_failed"
    stage = Stage.TCP
    hint = (
        "run the command as the daemon's user; what it writes to its standard error is in the log "
        "(ProxyCommand says)"
    )


class HandshakeFailed(LinkError):
    """TCP works, but the SSH version exchange or key exchange does not."""

    reason = "handshake_failed"
    hint = "is that port an SSH server? Its log says more: journalctl -u ssh"


class BadVersion(HandshakeFailed):
    """The server's first line is no SSH version: it holds bytes that are not ASCII (RFC 4253 4.2)."""

    reason = "bad_version"
    hint = (
        "SSH versions are ASCII: is that port an SSH server, and is its version string (sshd's "
        "VersionAddendum) ASCII?"
    )


class HostKeyUnknown(LinkError):
    """known_hosts has no key for this server."""

    reason = "host_key_unknown"
    retry = RetryClass.SLOW
    hint = "compare the fingerprint with one from a trusted source, then add the key to known_hosts"


class HostKeyChanged(LinkError):
    """The server shows another key than known_hosts has: rotated, rebuilt, or somebody in between."""

    reason = "host_key_changed"
    retry = RetryClass.SLOW
    hint = "find out why before you trust it; then replace the old line in known_hosts: ssh-keygen -R HOST"


class HostKeyRevoked(LinkError):
    """The server shows a key that known_hosts marks `@revoked`."""

    reason = "host_key_revoked"
    retry = RetryClass.SLOW
    hint = "do not connect: this key was revoked on purpose; the server needs a new one"


class AuthFailed(LinkError):
    """sshd refused every key we have."""

    reason = "auth_failed"
    stage = Stage.AUTH
    retry = RetryClass.SLOW
    hint = (
        "is the public key in authorized_keys of that user, and the certificate still valid? sshd's log "
        "says why it refused"
    )


class CredentialsUnusable(LinkError):
    """A key, certificate, passphrase or known_hosts file cannot be read or parsed."""

    reason = "credentials_unusable"
    stage = Stage.AUTH
    retry = RetryClass.SLOW
    hint = "check that the file exists, and that the daemon's user may read it"


class JumpFailed(LinkError):
    """A gateway of the jump chain cannot be reached; the message says which and why."""

    reason = "jump_failed"


class DialBroken(LinkError):
    """An exception that nobody expected: a bug, of kubemux or of a library.

    It is dialled again as after any failure.
    """

    reason = "internal"
    hint = "this is a bug: please report it with the traceback in the log; kubemux dials again by itself"


class KeepaliveTimeout(LinkError):
    """The peer stopped answering."""

    reason = "keepalive_timeout"
    hint = "the network or the gateway is gone without a word; kubemux dials again by itself"


class LinkLost(LinkError):
    """The connection ended: closed, reset, or a protocol error on it."""

    reason = "link_lost"
    hint = "kubemux dials again by itself; if this repeats, sshd's log on the gateway says why it hangs up"


class LinkClosed(LinkError):
    """We closed the link ourselves: a stop, or a gateway that is configured no more."""

    reason = "closed"


class LinkReplaced(LinkClosed):
    """We closed it because another one does its work: reconnect, a rotated key, age."""

    reason = "replaced"


class LinkDown(ProxyError):
    """No link of the gateway is up, and none came up within the time a client may wait."""

    reason = "link_down"
    stage: Stage = Stage.SSH
    hint = "kubemux status shows why the gateway is down"


# ---------------------------------------------------------------------------------------------- channels


class ChannelError(ProxyError):
    """A channel could not be opened on a link that is up."""

    reason = "channel_failed"
    stage: Stage = Stage.CHANNEL


class ChannelRefused(ChannelError):
    """The gateway could not connect to the API server (RFC 4254 5.1, SSH_OPEN_CONNECT_FAILED)."""

    reason = "channel_refused"
    hint = "is the API server listening there, as seen from the gateway?"


class ChannelProhibited(ChannelError):
    """sshd does not allow this forwarding (SSH_OPEN_ADMINISTRATIVELY_PROHIBITED)."""

    reason = "channel_prohibited"
    hint = (
        "sshd's AllowTcpForwarding or PermitOpen, or permitopen= in authorized_keys, does not allow "
        "this address"
    )


class ChannelTimeout(ChannelError):
    """Neither opened nor refused in time: the gateway cannot reach the API server's address."""

    reason = "timeout"
    hint = (
        "the gateway's packets to the API server are probably dropped: check routes and firewalls from "
        "the gateway"
    )


class MemoryExhausted(ChannelError):
    """`limits.memory` is all given out: the client is turned away instead of growing the process."""

    reason = "memory"
    hint = "raise limits.memory, or lower limits.max_connections"


# ---------------------------------------------------------------------------------------------- local side


class ListenError(ProxyError):
    """A local address could not be bound."""

    reason = "listen_failed"
    hint = "choose an address of this machine and a port that is free"


class AdminError(ProxyError):
    """The running daemon could not be asked."""

    reason = "admin"
    hint = (
        "is it running, and could it open its admin addresses? systemctl status kubemux (--user, if it is "
        "yours), or the log of kubemux run"
    )
