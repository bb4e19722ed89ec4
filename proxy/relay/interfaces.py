"""The seam between the two legs of a relay.

A relay knows a channel and a route only by these protocols; `proxy/ssh` implements them on SSH links,
`proxy/relay/direct.py` on plain TCP. What a byte passes each way is listed in `proxy/ssh/native/__init__.py`.
Every method but `Route.open_channel` is a plain callback: it never blocks and never raises.
"""

from __future__ import annotations

from typing import Protocol

from proxy.errors import ProxyError
from proxy.runtime.endpoint import Endpoint

Pieces = list[bytes | bytearray | memoryview]


class ChannelUser(Protocol):
    """Who gets what comes back on a channel: the relay."""

    def channel_data(self, pieces: Pieces, nbytes: int) -> None:
        """`nbytes` from the cluster, in order.

        A memoryview is good for this call; a user that needs it longer pauses the channel in it.
        """

    def channel_eof(self) -> None:
        """The cluster sends no more; it may still receive (RFC 4254 5.3)."""

    def channel_full(self) -> None:
        """The channel's window or its link is full: read no more from the client."""

    def channel_writable(self) -> None:
        """Room again."""

    def channel_lost(self, error: ProxyError | None) -> None:
        """The channel is gone: `None` if the other side closed it, else why.

        The last call a user gets, exactly once.
        """


class Channel(Protocol):
    """One open connection to an API server; nothing is delivered before `attach`."""

    @property
    def counts_unsent(self) -> bool:
        """Whether what its user has been given and not passed on is counted against `limits.memory` already,
        as its window is.
        """

    def attach(self, user: ChannelUser) -> None:
        """Name the receiver and start delivery."""

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the client's next bytes go, never empty; valid until `buffer_updated`
        (asyncio.BufferedProtocol).
        """

    def buffer_updated(self, nbytes: int) -> None:
        """`nbytes` of that buffer are filled: send them to the cluster."""

    def write_eof(self) -> None:
        """The client sends no more."""

    def pause_reading(self) -> None:
        """The client is slow: deliver no more, grant the cluster no more credit."""

    def resume_reading(self) -> None:
        """The client has room again."""

    def close(self) -> None:
        """Orderly: what is queued still goes out. Idempotent."""

    def abort(self) -> None:
        """At once; queued bytes are dropped. Idempotent."""


class Route(Protocol):
    """A way to API servers: a gateway, or no gateway at all."""

    @property
    def is_up(self) -> bool:
        """Whether it has a link, if it needs one."""

    async def open_channel(self, target: Endpoint, *, origin: Endpoint, hold_until: float) -> Channel:
        """Open a channel to `target`, waiting for a link until `hold_until` (loop time, seconds).

        `origin` is the client's address, as RFC 4254 7.2 wants it for sshd's log. Opening has a deadline of
        the route's own. Raises LinkDown, ChannelRefused, ChannelProhibited, ChannelTimeout, MemoryExhausted.
        Cancelled, it leaves no channel behind.
        """

    def is_given_up(self, patience: float) -> bool:
        """Whether there has been no link for more than `patience` seconds, nor one in sight."""
