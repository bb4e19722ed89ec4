"""The seam between a link and what carries its bytes.

A link knows its data plane by these protocols alone, and so does a plane its link. `proxy/ssh/planes.py` is
the one place that knows which planes there are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from proxy.errors import LinkError
from proxy.relay.interfaces import Channel
from proxy.runtime.endpoint import Endpoint

Refusal = tuple[int, str]
"""Why a channel was not opened: the code and the words of RFC 4254 5.1."""

OnAnswer = Callable[[Refusal | None], None]
"""Gets the peer's answer to an open, once: None if the channel is open."""


class Unsupported(Exception):
    """Why a plane cannot carry a connection, which is as it was; for the log."""


class DataPlane(Protocol):
    """Carries the channels of one authenticated connection, from the moment it is made until `close`."""

    error: LinkError | None
    """Why the connection has ended; what its channels are told. May be set before it has."""

    round_trip: float
    """Seconds that the way itself takes, as far as the link has measured it."""

    @property
    def mode(self) -> str:
        """What it is called in metrics and `status`."""

    @property
    def bulk(self) -> int:
        """Bytes that have gone and come in full packets so far (`proxy.ssh.pace`)."""

    def __len__(self) -> int:
        """Channels open or being opened."""

    def open(self, window: int, target: Endpoint, origin: Endpoint, on_answer: OnAnswer) -> Channel:
        """Have a channel opened, with what was taken of the budget as its receive window.

        `on_answer` may be called before this returns.
        """

    def lost(self, error: LinkError) -> None:
        """The connection has ended, and with it every channel. Idempotent."""

    async def close(self) -> None:
        """The link is closed: end what still runs."""


class PlaneUser(Protocol):
    """Whose data plane it is: the link."""

    name: str
    server: str

    def protocol_broken(self, error: LinkError) -> None:
        """The peer broke the protocol; the connection is about to end."""

    def lost(self, exc: Exception | None) -> None:
        """The connection has ended; None if the peer closed it without a word."""

    def channel_ended(self) -> None:
        """There is one channel fewer."""
