"""What an entry hands to a cluster: one client that has connected."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable
from typing import NamedTuple

from proxy.errors.reasons import Reason
from proxy.relay.relay import LINGER_ZERO
from proxy.runtime.endpoint import Endpoint


class Caller(NamedTuple):
    """Who the client is. What an entry knows beside the address (a local uid, the name in a certificate)
    belongs here.
    """

    address: Endpoint

    def __str__(self) -> str:
        return str(self.address)


class Arrival:
    """A client that waits for a channel. The cluster calls `start` when the channel is open, and `refuse` if
    none can be opened.

    A listener sends its clients nothing of its own. An entry that answers its clients (SOCKS5, HTTP CONNECT,
    SSH) makes a subclass, whose `start` and `refuse` first send an answer in the protocol of the entry.
    """

    __slots__ = ("_sock", "caller", "early")

    def __init__(self, sock: socket.socket, caller: Caller, early: bytes = b"") -> None:
        """`sock` is non-blocking and has no transport yet: bytes that the client sends wait in the kernel.

        `early` is what the entry has read from the client already. The API server gets it first.
        """
        self._sock = sock
        self.caller = caller
        self.early = early

    def start(self, relay: asyncio.BufferedProtocol) -> Awaitable[object]:
        """Make `relay` the protocol of the client's connection. Raises OSError if the client has gone."""
        return asyncio.get_running_loop().connect_accepted_socket(lambda: relay, self._sock)

    def refuse(self, reason: Reason) -> None:
        """End the client's connection, because no channel could be opened; `connections_total` counts the
        `reason`.

        The client gets a reset (RST). After a FIN, a TLS client would believe that the API server has closed
        the connection.
        """
        del reason
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
        self._sock.close()
