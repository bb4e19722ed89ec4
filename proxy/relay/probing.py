"""The connection of a probe: one end of a socket pair, whose other end is relayed like a client's socket."""

from __future__ import annotations

import asyncio
import socket
from typing import NamedTuple

from proxy.errors.reasons import Reason
from proxy.metrics import Traffic
from proxy.relay.budget import MemoryBudget
from proxy.relay.interfaces import Channel
from proxy.relay.socket_relay import SocketRelay
from proxy.runtime.endpoint import Endpoint


class Dialled(NamedTuple):
    """A connection for a probe, and its API server."""

    sock: socket.socket
    server: Endpoint


class ProbeRelay(SocketRelay):
    """A probe never half-closes: when it sends end of file, its relay ends both legs."""

    def eof_received(self) -> bool:
        """Close the channel after what was sent, for example a TLS alert."""
        self.abort(Reason.CLIENT_CLOSED)
        return False


async def relayed_socket(channel: Channel, budget: MemoryBudget) -> socket.socket:
    """One end of a socket pair whose other end is relayed to `channel`. No metric counts it."""
    ours, theirs = socket.socketpair()
    try:
        for sock in (ours, theirs):
            sock.setblocking(False)
        await ProbeRelay(
            channel,
            Traffic(),
            budget,
            lambda _: None,
            lambda relay: asyncio.get_running_loop().connect_accepted_socket(lambda: relay, theirs),
        ).start()
    except BaseException:
        ours.close()
        theirs.close()
        raise
    return ours
