"""Pauses reading from a link while there is at least one reason to."""

from __future__ import annotations

from enum import Enum, auto

from proxy.ssh.native.handover import Transport


class Reason(Enum):
    """Why a link is not read."""

    TURN = auto()
    """The link has opened as much as one turn of the loop allows."""
    KEYS = auto()
    """The next packets need keys that we do not have yet."""
    UNREAD = auto()
    """The peer does not read our answers."""


class Valve:
    """Pauses and resumes one transport."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._reasons: set[Reason] = set()

    def __repr__(self) -> str:
        return f"<Valve {[reason.name for reason in self._reasons]}>"

    def is_closed_by(self, reason: Reason) -> bool:
        """Whether `reason` is one of the reasons."""
        return reason in self._reasons

    def close(self, reason: Reason) -> None:
        """Stop reading for `reason`. Data that was read already may still arrive."""
        if not self._reasons and not self._transport.is_closing():
            self._transport.pause_reading()
        self._reasons.add(reason)

    def open(self, reason: Reason) -> None:
        """`reason` no longer holds: read if there is no other reason.

        Through a jump host, data that has arrived since is received before this returns.
        """
        if reason in self._reasons:
            self._reasons.remove(reason)
            if not self._reasons and not self._transport.is_closing():
                self._transport.resume_reading()
