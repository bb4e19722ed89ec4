"""The one error of this package."""

from __future__ import annotations

from proxy.errors import LinkError


class ProtocolError(LinkError):
    """The peer broke the SSH protocol: nothing it says afterwards can be trusted, so its link ends."""

    reason = "protocol_error"
    hint = (
        "kubemux dials again by itself; if this repeats, something on the way to the gateway alters "
        "bytes, or its sshd is broken"
    )
