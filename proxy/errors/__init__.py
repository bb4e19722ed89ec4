"""All errors of kubemux, as one tree.

Each class has a `reason` from the list in `proxy.errors.reasons`. `stage` says how far a connection got (see
`Stage`). `hint` tells the operator what to do: the reason's remedy, or a better one from where the error is
raised.

An exception of another library is translated at one boundary: asyncssh's in `proxy/ssh`, ssl's and h11's in
`proxy/health`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from proxy.errors.reasons import Reason
from proxy.runtime.text import suggest


class Stage(StrEnum):
    """The steps of a connection to an API server, in order (`kubemux probe` prints a line for each)."""

    TCP = "tcp"
    SSH = "ssh"
    AUTH = "auth"
    CHANNEL = "channel"
    TLS = "tls"
    HTTP = "http"


class ProxyError(Exception):
    """The base class. `str()` is one sentence for an operator; `hint` says what to do."""

    reason: ClassVar[Reason] = Reason.INTERNAL
    hint: str = Reason.INTERNAL.remedy

    def __init_subclass__(cls) -> None:
        own = vars(cls)
        if "reason" in own and "hint" not in own:
            cls.hint = cls.reason.remedy

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        if hint is not None:
            self.hint = hint


class UnknownName(ProxyError):
    """No cluster, gateway or context has that name. The hint lists similar names. Exit code 2."""

    reason = Reason.UNKNOWN_NAME

    @classmethod
    def among(cls, kind: str, name: str, known: Iterable[str]) -> UnknownName:
        """The error for a `name` that is not in `known`."""
        return cls(f"no {kind} is called {name!r}", hint=suggest(name, sorted(known)))


class UnknownTarget(ProxyError):
    """No cluster and no route has the name that a client asks for. The message suggests similar names."""

    reason = Reason.UNKNOWN_NAME


class Denied(ProxyError):
    """No rule of `allow` names the caller."""

    reason = Reason.DENIED


class Ambiguous(UnknownTarget):
    """A client asks for an address that is an API server of several clusters."""


# ---------------------------------------------------------------------------------------------- configuration


MAX_PROBLEMS = 200
"""The most problems in one report. 30,000 problems would make a log line of 11 MB, which nobody reads."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a file: where, what, and the remedy.

    `line` counts from 1 and is 0 if unknown; `key` looks like `clusters.prod.listen`.
    """

    line: int
    key: str
    message: str
    hint: str = ""

    def at(self, path: object) -> str:
        """`FILE:LINE: KEY: what is wrong`, then `  hint: remedy`."""
        where = f"{path}:{self.line}" if self.line else str(path)
        said = f"{where}: {self.key + ': ' if self.key else ''}{self.message}"
        return f"{said}\n  hint: {self.hint}" if self.hint else said


class ConfigError(ProxyError):
    """A configuration or kubeconfig that cannot be used. It holds the first MAX_PROBLEMS problems."""

    reason = Reason.CONFIG

    def __init__(self, path: str, problems: list[Problem]) -> None:
        super().__init__(f"{path}: {len(problems)} problem{'s' if len(problems) != 1 else ''}")
        self.path = path
        self.problems = problems[:MAX_PROBLEMS]
        if (more := len(problems) - MAX_PROBLEMS) > 0:
            self.problems.append(Problem(0, "", f"{more} more problems are not shown"))

    def render(self) -> str:
        """The whole report, with the text of `Problem.at` for each problem."""
        return "\n".join(problem.at(self.path) for problem in self.problems)


class UnknownNames(ConfigError):
    """A command names clusters or gateways that the file does not have. Exit code 2, as for UnknownName."""

    reason = UnknownName.reason


# ------------------------------------------------------------------------------------------- the SSH side


class RetryClass(StrEnum):
    """How soon to dial again after a failure (see `proxy/ssh/governor.py`)."""

    SOON = "soon"
    SLOW = "slow"


class LinkError(ProxyError):
    """A link could not be brought up, or was lost."""

    reason = Reason.LINK_FAILED
    stage: Stage = Stage.SSH
    retry: RetryClass = RetryClass.SOON
    is_counted: bool = True
    """Whether sshd counts this failure against our address (PerSourcePenalties), if the class is SLOW."""


class Unresolvable(LinkError):
    """The gateway's name does not resolve."""

    reason = Reason.UNRESOLVABLE
    stage = Stage.TCP


class Unreachable(LinkError):
    """TCP to sshd failed: refused, no route, or reset."""

    reason = Reason.UNREACHABLE
    stage = Stage.TCP


class ConnectTimeout(LinkError):
    """sshd did not answer, or did not finish the handshake, within `connect_timeout`."""

    reason = Reason.CONNECT_TIMEOUT
    stage = Stage.TCP


class ProxyCommandFailed(LinkError):
    """The ProxyCommand of ssh_config could not be run, or has ended."""

    reason = Reason.PROXY_COMMAND_FAILED
    stage = Stage.TCP


class HandshakeFailed(LinkError):
    """TCP works, but the SSH version exchange or the key exchange does not."""

    reason = Reason.HANDSHAKE_FAILED


class BadVersion(HandshakeFailed):
    """The server's first line is not an SSH version: it has bytes that are not ASCII (RFC 4253 4.2)."""

    reason = Reason.BAD_VERSION


class HostKeyUnknown(LinkError):
    """known_hosts has no key for this server."""

    reason = Reason.HOST_KEY_UNKNOWN
    retry = RetryClass.SLOW


class HostKeyChanged(LinkError):
    """The server's host key is not the one in known_hosts. It was rotated, the server was rebuilt, or an
    attacker is between us and the server.
    """

    reason = Reason.HOST_KEY_CHANGED
    retry = RetryClass.SLOW


class HostKeyRevoked(LinkError):
    """The server shows a key that known_hosts marks `@revoked`."""

    reason = Reason.HOST_KEY_REVOKED
    retry = RetryClass.SLOW


class KeyExpired(LinkError):
    """A client of the SSH server has logged in with a key that is now expired."""

    reason = Reason.KEY_EXPIRED


class KeyRemoved(LinkError):
    """A client of the SSH server has logged in with a key that is no longer accepted."""

    reason = Reason.KEY_REMOVED


class ForwardRefused(LinkError):
    """A site has requested a forward that is refused. `str()` is a sentence for the site's operator."""

    reason = Reason.FORWARD_REFUSED


class AuthFailed(LinkError):
    """sshd refused every key that we offered."""

    reason = Reason.AUTH_FAILED
    stage = Stage.AUTH
    retry = RetryClass.SLOW


class CredentialsUnusable(LinkError):
    """A key, certificate, passphrase or known_hosts file cannot be read or parsed."""

    reason = Reason.CREDENTIALS_UNUSABLE
    stage = Stage.AUTH
    retry = RetryClass.SLOW


class JumpFailed(LinkError):
    """A gateway of the jump chain could not be reached; the message says which one and why."""

    reason = Reason.JUMP_FAILED


class DialBroken(LinkError):
    """An unexpected exception: a bug in kubemux or a library.

    The gateway dials again, as after any failure.
    """

    reason = Reason.INTERNAL


class KeepaliveTimeout(LinkError):
    """The peer no longer answers."""

    reason = Reason.KEEPALIVE_TIMEOUT


class LinkLost(LinkError):
    """The connection ended: closed, reset, or a protocol error."""

    reason = Reason.LINK_LOST


class LinkClosed(LinkError):
    """kubemux closed the link: it stops, or the gateway is no longer configured."""

    reason = Reason.CLOSED
    hint = ""  # the remedy of `closed` is for probes; here there is nothing to do


class LinkReplaced(LinkClosed):
    """kubemux closed the link because another one replaces it: reconnect, a rotated key, age."""

    reason = Reason.REPLACED


class LinkDown(ProxyError):
    """The gateway has no link, and none came up while the client waited."""

    reason = Reason.LINK_DOWN
    stage: Stage = Stage.SSH


# ---------------------------------------------------------------------------------------------- channels


class ChannelError(ProxyError):
    """A channel could not be opened on a link that is up."""

    reason = Reason.CHANNEL_FAILED
    stage: Stage = Stage.CHANNEL


class ChannelRefused(ChannelError):
    """The gateway could not connect to the API server (SSH_OPEN_CONNECT_FAILED, RFC 4254 5.1)."""

    reason = Reason.CHANNEL_REFUSED


class ChannelProhibited(ChannelError):
    """sshd does not allow this forwarding (SSH_OPEN_ADMINISTRATIVELY_PROHIBITED)."""

    reason = Reason.CHANNEL_PROHIBITED


class ChannelTimeout(ChannelError):
    """The gateway neither opened nor refused the channel in time."""

    reason = Reason.TIMEOUT


class MemoryExhausted(ChannelError):
    """All of `limits.memory` is in use: the client is refused, so that the process does not grow."""

    reason = Reason.MEMORY


class HostLimit(ProxyError):
    """A gateway pattern has `max_hosts` hosts, and clients use all of them."""

    reason = Reason.HOST_LIMIT


# ---------------------------------------------------------------------------------------------- local side


class ListenError(ProxyError):
    """A local address could not be bound."""

    reason = Reason.LISTEN_FAILED


class AdminError(ProxyError):
    """The running daemon did not answer a request."""

    reason = Reason.ADMIN
