"""A client's socket and its channel are put together."""

from __future__ import annotations

import asyncio
import socket

from proxy.relay.interfaces import Channel
from proxy.relay.relay import Relay


async def attach(relay: Relay, channel: Channel, sock: socket.socket) -> None:
    """Start relaying between `sock` and `channel`.

    Raises OSError after closing the channel if the client is gone.
    """
    try:
        await asyncio.get_running_loop().connect_accepted_socket(lambda: relay, sock)
    except BaseException as exc:
        channel.abort()
        if relay.has_started:  # uvloop, cancelled here, closes the transport and never calls connection_lost
            relay.connection_lost(exc if isinstance(exc, Exception) else None)
        raise
