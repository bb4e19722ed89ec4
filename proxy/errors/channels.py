"""The errors of a client's channel: why there is none, though its gateway may be up."""

from __future__ import annotations

from proxy.errors.base import ProxyError, Stage
from proxy.errors.reasons import Reason


class LinkDown(ProxyError):
    """The gateway has no link, and none came up while the client waited."""

    reason = Reason.LINK_DOWN
    stage: Stage = Stage.SSH


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
