"""The interface between a link and its data plane, which carries the bytes.

A link and its data plane know each other only by these protocols. Only `proxy/ssh/planes.py` knows all
planes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from proxy.errors import LinkError
from proxy.errors.reasons import Reason
from proxy.relay.interfaces import Channel, OpenRequest
from proxy.runtime.endpoint import Endpoint

Refusal = tuple[int, str]
"""Why a channel was not opened: reason code and text (RFC 4254 5.1)."""

OnAnswer = Callable[[Refusal | None], None]
"""Called once with the peer's answer to an open; None if the channel is open."""


class Unsupported(Exception):
    """Why a plane cannot carry a connection, for the log. The plane has left the connection as it was."""


class DataPlane(Protocol):
    """Carries the channels of one authenticated connection, from its construction until `close`."""

    error: LinkError | None
    """Why the connection ended, for its channels. The link may set it shortly before the end."""

    round_trip: float
    """Seconds of a round trip without load. The link measures and sets it."""

    @property
    def mode(self) -> str:
        """Its name in metrics and `status`."""

    @property
    def bulk(self) -> int:
        """Bytes in full packets so far, in both directions (`proxy.ssh.pace`)."""

    @property
    def received(self) -> int:
        """It differs from its last value if anything has arrived since."""

    def __len__(self) -> int:
        """The number of channels that are open or being opened, by us or by the peer."""

    def __contains__(self, channel: Channel) -> bool:
        """Whether this channel is one of them."""

    def open(self, window: int, target: Endpoint, origin: Endpoint, on_answer: OnAnswer) -> Channel:
        """Open a channel. Its receive window `window` is acquired from the budget already.

        `on_answer` may be called before this returns.
        """

    def send_directly(self, message: bytes) -> bool:
        """Send a message that is not for a channel, past asyncssh. Returns False if the plane cannot.

        Do not call it during a key exchange.
        """

    def lost(self, error: LinkError) -> None:
        """End every channel: the connection has ended. Idempotent."""

    async def close(self) -> None:
        """Release what the plane still holds; the link is closed."""


class PlaneUser(Protocol):
    """The user of a data plane: the link."""

    name: str
    server: str
    error: LinkError | None
    """Why the connection ends, if that is known before it has ended."""

    @property
    def on_open(self) -> Callable[[OpenRequest], None] | None:
        """Called with each channel that the peer asks for. None: all of them are refused."""

    on_refused: Callable[[Reason, str], None]
    """Called with the reason and a sentence for each that is refused before `on_open` gets it."""
    limit: Callable[[int], str]
    """See `proxy.ssh.open_requests.Limit`."""

    def protocol_broken(self, error: LinkError) -> None:
        """The peer broke the protocol; the connection is about to end."""

    def lost(self, exc: Exception | None) -> None:
        """The connection has ended; `exc` is None if the peer closed it without a reason."""

    def channel_ended(self) -> None:
        """A channel has ended, or was not opened."""
