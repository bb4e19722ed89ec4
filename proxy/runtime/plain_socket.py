"""A socket whose family and type are plain numbers."""

from __future__ import annotations

import socket
from typing import Any


class PlainSocket(socket.socket):
    """A non-blocking listening socket, or a socket that it has accepted.

    `socket.socket` makes an enum each time when it is asked for its family or its type: 0.5 us. For each
    client, `accept` asks twice, and uvloop three times.
    """

    __slots__ = ()
    family = socket.SocketType.family  # type: ignore[assignment]  # an enum is equal to its number
    type = socket.SocketType.type  # type: ignore[assignment]

    def accept(self) -> tuple[PlainSocket, Any]:
        # As `socket.socket.accept` does. To make its result again would take one more system call.
        descriptor, address = self._accept()  # type: ignore[attr-defined]
        return PlainSocket(self.family, self.type, self.proto, descriptor), address
