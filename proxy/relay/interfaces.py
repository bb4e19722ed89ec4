"""The protocols between relays, channels and ways.

`proxy/ssh` implements `Channel` and `Way` with SSH links, `proxy/relay/direct.py` with plain TCP.
`proxy/ssh/native/__init__.py` lists the steps of a byte in each direction. The methods are plain callbacks,
which never block and never raise, except `Way.open_channel`, `Relay.start` and `OpenRequest.accept`.
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
    """Receives what the cluster sends on a channel. A relay implements it."""

    def channel_data(self, pieces: Pieces, nbytes: int) -> None:
        """`pieces`, together `nbytes`, have arrived from the cluster, in order.

        A memoryview is valid only during this call. A user that needs it for longer must pause the channel
        before it returns.
        """

    def channel_eof(self) -> None:
        """The cluster has sent its EOF. It may still receive (RFC 4254 5.3)."""

    def channel_full(self) -> None:
        """Stop reading from the client: the channel's window or its link is full."""

    def channel_writable(self) -> None:
        """Read from the client again: the window and the link have room."""

    def channel_lost(self, error: ProxyError | None) -> None:
        """The channel is closed. `error` says why; it is None if the other side closed the channel.

        It is called exactly once, and nothing is called after it.
        """


class Channel(Protocol):
    """One open connection to an API server, or the channel of an SSH client (`OpenRequest.accept`).

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

        The next user gets `unread` first: the bytes that this user has received but not used.
        """

    def get_buffer(self, sizehint: int) -> memoryview:
        """The buffer for the client's next bytes, never empty; valid until `buffer_updated`.

        As in asyncio.BufferedProtocol.
        """

    def buffer_updated(self, nbytes: int) -> None:
        """Send the first `nbytes` of that buffer to the cluster."""

    def write_eof(self) -> None:
        """Send an EOF: the client sends no more."""

    def pause_reading(self) -> None:
        """Stop delivering, and grant the cluster no credit: the client is slow."""

    def resume_reading(self) -> None:
        """Deliver again: the client has room."""

    def close(self) -> None:
        """Close when all queued bytes are sent. Idempotent."""

    def abort(self) -> None:
        """Close at once and drop queued bytes. Idempotent."""


class Relay(Protocol):
    """A client and its channel to a cluster, until both directions have ended.

    It owns the client from `start` on. When both sides are closed, it calls its `on_end` once. It does not do
    so if `start` failed before the relay owned the client.
    """

    @property
    def to_cluster(self) -> int:
        """Bytes from the client so far."""

    @property
    def from_cluster(self) -> int:
        """Bytes from the cluster so far."""

    @property
    def first_byte_at(self) -> float | None:
        """When the cluster sent its first byte, in seconds of the loop's clock; None before that."""

    @property
    def reason(self) -> Reason | None:
        """Why the relay ends or has ended; None before that."""

    @property
    def is_client_paused(self) -> bool:
        """Whether the client is not read, because the channel is full."""

    @property
    def is_cluster_paused(self) -> bool:
        """Whether the channel is not read, because the client does not read."""

    @property
    def has_started(self) -> bool:
        """Whether the relay owns the client."""

    @property
    def is_client_gone(self) -> bool:
        """Whether a paused client has reset its connection. The transport does not report that by itself."""

    async def start(self) -> None:
        """Become the owner of the client, and start both directions.

        If this fails or is cancelled, the channel is closed. Raises OSError if the client has disconnected.
        """

    def half_close(self, reason: Reason) -> None:
        """Send an EOF in place of the client. The relay still delivers what the cluster sends."""

    def abort(self, reason: Reason) -> None:
        """End both sides at once."""


OnEnd = Callable[[Relay], None]


class OpenRequest(Protocol):
    """A request of a link's peer for a channel. Answer it once, by `accept` or `refuse`.

    After an answer, or after the end of the link, `refuse` does nothing.
    """

    @property
    def target(self) -> Endpoint:
        """The requested target, as the peer has sent it. Neither the host nor the port is checked."""

    @property
    def origin(self) -> Endpoint:
        """The originator that the peer names (RFC 4254 7.2). It is not checked."""

    def accept(self) -> Channel:
        """Acquire a window from the budget, and open the channel.

        Raises ConnectionResetError if the link has ended. Raises MemoryExhausted; the request must then still
        be answered.
        """

    def refuse(self, code: int, text: str) -> None:
        """Refuse the channel, with a reason code and a sentence for the client's user (RFC 4254 5.1)."""


class Way(Protocol):
    """A way to API servers: a gateway, a site, or plain TCP (`gateway: direct`)."""

    @property
    def is_up(self) -> bool:
        """Whether a client can be served now: a link is up, or the way needs no link."""

    @property
    def is_idle(self) -> bool:
        """Whether there is no link because no client needs one. A probe would then show nothing."""

    @property
    def connect_timeout(self) -> float:
        """The deadline in seconds for a dial, and for the opening of a channel."""

    async def open_channel(
        self,
        target: Endpoint,
        *,
        origin: Endpoint,
        hold_until: float,
        answer_by: float = math.inf,
        is_needed: bool = True,
    ) -> Channel:
        """Open a channel to `target`. Wait for a link until `hold_until`, in seconds of the loop's clock.

        `origin` is the client's address, which sshd logs (RFC 4254 7.2). The opening itself may take
        `connect_timeout`, and ends at `answer_by` at the latest. A channel that is not needed (`is_needed` is
        false for probes) causes no dial on demand, and keeps no link open. Raises LinkDown, ChannelRefused,
        ChannelProhibited, ChannelTimeout, MemoryExhausted. If it is cancelled, it leaves no channel behind.
        """

    def is_given_up(self, patience: float) -> bool:
        """Whether there has been no link for more than `patience` seconds, and a dial has failed since."""
