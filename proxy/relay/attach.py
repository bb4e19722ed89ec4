"""Connects a client with its channel."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from proxy.relay.interfaces import Channel
from proxy.relay.relay import Relay


async def attach(relay: Relay, channel: Channel, start: Callable[[Relay], Awaitable[object]]) -> None:
    """Start to relay between a client and `channel`.

    `start` makes `relay` the protocol of the client's connection. If the client is gone, this closes the
    channel and raises OSError.
    """
    try:
        await start(relay)
    except BaseException as exc:
        channel.abort()
        if relay.has_started:  # uvloop closes the transport when this is cancelled, without connection_lost
            relay.connection_lost(exc if isinstance(exc, Exception) else None)
        raise
