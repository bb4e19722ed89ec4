"""What stands between an entry and the cluster: one client that has come in."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable
from typing import NamedTuple

from proxy.errors.reasons import Reason
from proxy.relay.relay import LINGER_ZERO
from proxy.runtime.endpoint import Endpoint


class Caller(NamedTuple):
    """Who asks. What an entry knows beside the address (a local uid, a certificate's name) belongs here."""

    address: Endpoint

    def __str__(self) -> str:
        return str(self.address)


class Arrival:
    """A client that waits for a cluster: the cluster calls `start` when a channel is open, or else `refuse`.

    A client of a listener gets no answer before its bytes are relayed. An entry that answers its clients
    (SOCKS5, HTTP CONNECT, SSH) makes a subclass, whose `start` and `refuse` answer in its protocol first.
    """

    __slots__ = ("_sock", "caller", "early")

    def __init__(self, sock: socket.socket, caller: Caller, early: bytes = b"") -> None:
        """`sock` does not block, and has no transport: what the client sends waits in the kernel.

        `early` is what the entry has read already; the API server gets it first.
        """
        self._sock = sock
        self.caller = caller
        self.early = early

    def start(self, relay: asyncio.BufferedProtocol) -> Awaitable[object]:
        """Make `relay` the protocol of the client's connection. Raises OSError if the client has gone."""
        return asyncio.get_running_loop().connect_accepted_socket(lambda: relay, self._sock)

    def refuse(self, reason: Reason) -> None:
        """End the connection without a channel; `connections_total` counts the `reason`.

        It is a reset: a TLS client would take an orderly end for one by the API server.
        """
        del reason
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
        self._sock.close()
