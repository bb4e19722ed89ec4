"""What a relay needs of its channel, and a cluster of its way to the API servers.

A relay knows a channel and a way only by these protocols; `proxy/ssh` implements them on SSH links,
`proxy/relay/direct.py` on plain TCP. `proxy/ssh/native/__init__.py` lists the steps of a byte in each
direction. Every method but `Way.open_channel`, `Relay.start` and `OpenRequest.accept` is a plain callback: it
never blocks and never raises.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

from proxy.errors import ProxyError
from proxy.errors.reasons import Reason
from proxy.runtime.endpoint import Endpoint

Pieces = list[bytes | bytearray | memoryview]


class ChannelUser(Protocol):
    """Receives what the cluster sends on a channel. The relay is one."""

    def channel_data(self, pieces: Pieces, nbytes: int) -> None:
        """`pieces`, together `nbytes`, have arrived from the cluster, in order.

        A memoryview is valid only during this call. A user that needs it for longer must pause the channel
        before it returns.
        """

    def channel_eof(self) -> None:
        """The cluster sends no more; it may still receive (RFC 4254 5.3)."""

    def channel_full(self) -> None:
        """The channel's window or its link is full: read no more from the client."""

    def channel_writable(self) -> None:
        """The window and the link have room again: read from the client."""

    def channel_lost(self, error: ProxyError | None) -> None:
        """The channel is closed. `error` says why; it is None if the other side closed the channel.

        It is called exactly once, and nothing is called after it.
        """


class Channel(Protocol):
    """One open connection to an API server, or one that a client has asked for (`OpenRequest`).

    It delivers nothing before `attach`.
    """

    @property
    def counts_unsent(self) -> bool:
        """Whether delivered bytes still count against `limits.memory` until the user has passed them on.

        A channel that acquires its receive window from the budget has counted them already.
        """

    def attach(self, user: ChannelUser) -> None:
        """Set the user, and start to deliver to it."""

    def detach(self, unread: bytes = b"") -> None:
        """Forget the user, and deliver nothing until the next `attach`.

        The next user gets `unread` first: the end of what this user was given and has not used.
        """

    def get_buffer(self, sizehint: int) -> memoryview:
        """The buffer for the client's next bytes, never empty; valid until `buffer_updated`.

        As in asyncio.BufferedProtocol.
        """

    def buffer_updated(self, nbytes: int) -> None:
        """`nbytes` of that buffer are filled: send them to the cluster."""

    def write_eof(self) -> None:
        """The client sends no more."""

    def pause_reading(self) -> None:
        """The client is slow: deliver no more, and grant the cluster no more credit."""

    def resume_reading(self) -> None:
        """The client has room again."""

    def close(self) -> None:
        """Close when all queued bytes are sent. Idempotent."""

    def abort(self) -> None:
        """Close at once and drop queued bytes. Idempotent."""


class Relay(Protocol):
    """A client and its channel to a cluster, until both directions have ended.

    It does not own the client before `start`. Its `on_end` gets it once, when both sides are closed, unless
    `start` has failed before it owned the client.
    """

    @property
    def to_cluster(self) -> int:
        """Bytes from the client so far."""

    @property
    def from_cluster(self) -> int:
        """Bytes from the cluster so far."""

    @property
    def first_byte_at(self) -> float | None:
        """When the cluster has sent its first byte (the loop's clock)."""

    @property
    def reason(self) -> Reason | None:
        """Why it ends or has ended."""

    @property
    def is_client_paused(self) -> bool:
        """Nothing is read from the client, because the channel is full."""

    @property
    def is_cluster_paused(self) -> bool:
        """Nothing is read from the channel, because the client does not read what it is sent."""

    @property
    def has_started(self) -> bool:
        """Whether it owns the client."""

    @property
    def is_client_gone(self) -> bool:
        """Whether the client has gone and nothing but this question tells us."""

    async def start(self) -> None:
        """Take the client, and start both directions.

        If this fails or is cancelled, the channel is closed. Raises OSError if the client has gone.
        """

    def half_close(self, reason: Reason) -> None:
        """Send the end of file that the client has not sent; what the cluster still sends is delivered."""

    def abort(self, reason: Reason) -> None:
        """End both sides at once."""


OnEnd = Callable[[Relay], None]


class OpenRequest(Protocol):
    """A channel that the peer of a link asks for. It is answered once, by `accept` or `refuse`.

    After the end of its link, or after an answer, `refuse` does nothing.
    """

    @property
    def target(self) -> Endpoint:
        """What it asks for, as it has written it: the host may be anything, and so may the port."""

    @property
    def origin(self) -> Endpoint:
        """Who it asks for, as it says. Nobody has checked that."""

    def accept(self) -> Channel:
        """Open the channel, which has acquired its window from the budget.

        Raises ConnectionResetError if the peer has gone. Raises MemoryExhausted, and then the request still
        waits for its answer.
        """

    def refuse(self, code: int, text: str) -> None:
        """Refuse it, with a reason code and a sentence for the client's user (RFC 4254 5.1)."""


class Way(Protocol):
    """A way to API servers: a gateway, or none (`gateway: direct`)."""

    @property
    def is_up(self) -> bool:
        """Whether a client can be served now: a link is up, or none is needed."""

    @property
    def is_idle(self) -> bool:
        """Whether there is no link because no client needs one: a probe would find out nothing."""

    @property
    def connect_timeout(self) -> float:
        """Seconds that a dial may take, and the opening of a channel."""

    async def open_channel(
        self,
        target: Endpoint,
        *,
        origin: Endpoint,
        hold_until: float,
        answer_by: float = math.inf,
        is_needed: bool = True,
    ) -> Channel:
        """Open a channel to `target`; waits for a link until `hold_until` (the loop's clock, seconds).

        `origin` is the client's address, which sshd logs (RFC 4254 7.2). The opening itself has a deadline
        that the way sets; it ends at `answer_by` at the latest. If the channel is not `is_needed`, as a
        probe's is not, nothing is dialled on demand for it, and no link kept. Raises LinkDown,
        ChannelRefused, ChannelProhibited, ChannelTimeout, MemoryExhausted. If it is cancelled, it leaves no
        channel behind.
        """

    def is_given_up(self, patience: float) -> bool:
        """Whether there has been no link for more than `patience` seconds, and no dial has a good chance."""
