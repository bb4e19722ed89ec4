"""Remedies after a site's link has ended. The remedies of `Reason` are for gateways, which kubemux dials."""

from __future__ import annotations

from typing import Final

from proxy.errors import LinkDown, LinkError
from proxy.errors.reasons import Reason

_REMEDIES: Final = {
    Reason.KEEPALIVE_TIMEOUT: "the site's machine, or the network to it, has failed without closing the "
    "connection; the site's ssh ends, and dials again, if something there starts it again",
    Reason.LINK_LOST: "does anything at the site start its ssh again? If this repeats, what that ssh prints "
    "says why it ends",
    Reason.PROTOCOL_ERROR: "the site's ssh dials again; if this repeats, something on the way alters bytes, "
    "or its ssh is broken",
    Reason.LINK_FAILED: "the message, and what the site's ssh prints, say more",
}


def remedy(error: LinkError | LinkDown) -> str:
    """The hint for the operator; kubemux cannot dial a site, and there is no sshd whose log could help."""
    return _REMEDIES.get(error.reason, error.hint)
