"""A client and its channel are put together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from proxy.relay.interfaces import Channel
from proxy.relay.relay import Relay


async def attach(relay: Relay, channel: Channel, start: Callable[[Relay], Awaitable[object]]) -> None:
    """Start relaying between a client and `channel`; `start` makes `relay` the protocol of the client's
    connection.

    Raises OSError after closing the channel if the client is gone.
    """
    try:
        await start(relay)
    except BaseException as exc:
        channel.abort()
        if relay.has_started:  # uvloop, cancelled here, closes the transport and never calls connection_lost
            relay.connection_lost(exc if isinstance(exc, Exception) else None)
        raise
