"""An asyncssh server that sends USERAUTH_SUCCESS and further packets in one TCP segment."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import asyncssh

from proxy.config.model import GatewayConfig
from tests.support import other_servers

Then = Callable[[Any], bytes]
"""Writes what follows USERAUTH_SUCCESS: it may send packets through the asyncssh connection that it gets, and
returns bytes that are appended unencrypted.
"""


class _Hasty(asyncssh.SSHServer):
    def __init__(self, server: Hasty, conns: list[asyncssh.SSHServerConnection]) -> None:
        self._server = server
        self._conns = conns

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._conns.append(conn)
        hasty = cast("Any", conn)
        succeed, server = hasty.send_userauth_success, self._server

        async def success() -> None:
            if server.then is None:
                await succeed()
                return
            server.logins += 1
            segment: list[bytes] = []
            hasty._send = segment.append
            await succeed()
            last = server.then(hasty)
            transport = hasty._transport
            del hasty._send
            transport.write(b"".join(segment) + last)
            if server.hangs_up:
                transport.close()

        hasty.send_userauth_success = success

    def connection_requested(self, *_: object) -> bool:
        return True


class Hasty:
    """The server. A test may change `then` while it runs; with None it is an ordinary server.

    `logins` counts the logins that it accepted that way.
    """

    def __init__(self, then: Then, *, hangs_up: bool = False) -> None:
        self.then: Then | None = then
        self.hangs_up = hangs_up
        self.logins = 0

    def session(self, conns: list[asyncssh.SSHServerConnection]) -> asyncssh.SSHServer:
        """The handler of a new connection; it adds the connection to `conns`."""
        return _Hasty(self, conns)

    @asynccontextmanager
    async def serve(self, folder: Path) -> AsyncIterator[GatewayConfig]:
        """Serve until the block ends. Yields the configuration of a gateway that leads here."""
        async with other_servers.asyncssh_server(folder, self.session) as config:
            yield config
