"""The one error of this package."""

from __future__ import annotations

from proxy.errors import LinkError
from proxy.errors.reasons import Reason


class ProtocolError(LinkError):
    """The peer broke the SSH protocol: nothing it says afterwards can be trusted, so its link ends."""

    reason = Reason.PROTOCOL_ERROR
