"""The errors of a link: why it did not come up, or was lost."""

from __future__ import annotations

from enum import StrEnum

from proxy.errors.base import ProxyError, Stage
from proxy.errors.reasons import Reason


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
    """The connection ended: closed or reset."""

    reason = Reason.LINK_LOST


class LinkClosed(LinkError):
    """kubemux closed the link: it stops, or the gateway is no longer configured."""

    reason = Reason.CLOSED
    hint = ""  # the remedy of `closed` is for probes; here there is nothing to do


class LinkReplaced(LinkClosed):
    """kubemux closed the link because another one replaces it: reconnect, a rotated key, age."""

    reason = Reason.REPLACED
