"""The error that the SSH wire raises."""

from __future__ import annotations

from proxy.errors import LinkError
from proxy.errors.reasons import Reason


class ProtocolError(LinkError):
    """The peer broke the SSH protocol. Nothing that it sends after that can be trusted, so the link ends."""

    reason = Reason.PROTOCOL_ERROR
