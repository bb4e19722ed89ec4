"""The errors on this machine: a local address, the running daemon."""

from __future__ import annotations

from proxy.errors.base import ProxyError
from proxy.errors.reasons import Reason


class ListenError(ProxyError):
    """A local address could not be bound."""

    reason = Reason.LISTEN_FAILED


class AdminError(ProxyError):
    """The running daemon did not answer a request."""

    reason = Reason.ADMIN
