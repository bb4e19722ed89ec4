"""Whether a link is read: only while there is no reason not to."""

from __future__ import annotations

from enum import Enum, auto

from proxy.ssh.native.handover import Transport


class Reason(Enum):
    """Why a link is not read."""

    TURN = auto()
    """As much has been opened as may be in one turn of the loop."""
    KEYS = auto()
    """What follows is under keys that are not there yet."""
    UNREAD = auto()
    """The peer does not read what we answer."""


class Valve:
    """Of one transport."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._reasons: set[Reason] = set()

    def __repr__(self) -> str:
        return f"<Valve {[reason.name for reason in self._reasons]}>"

    def is_closed_by(self, reason: Reason) -> bool:
        """Whether that is one of the reasons."""
        return reason in self._reasons

    def close(self, reason: Reason) -> None:
        """Read no more. What has been read already may still come."""
        if not self._reasons and not self._transport.is_closing():
            self._transport.pause_reading()
        self._reasons.add(reason)

    def open(self, reason: Reason) -> None:
        """That reason is gone.

        Through a jump host, what has come meanwhile is received before this returns.
        """
        if reason in self._reasons:
            self._reasons.remove(reason)
            if not self._reasons and not self._transport.is_closing():
                self._transport.resume_reading()
