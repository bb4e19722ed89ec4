"""The demo's SSH server. One key may log in and forward to the stand-in clusters. No shell, no passwords.

At the end the server closes all connections itself, and does not wait for its clients.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress

import asyncssh

from proxy.runtime.endpoint import Endpoint

_CLOSE_WITHIN = 1.0


def authorized_key(public_key: str, targets: Iterable[Endpoint]) -> str:
    """A line of authorized_keys that lets a key forward only to `targets` (sshd(8), `permitopen`)."""
    opens = ",".join(f'permitopen="{target}"' for target in targets)
    return f"no-pty,no-agent-forwarding,no-X11-forwarding,{opens} {public_key}"


class _Session(asyncssh.SSHServer):
    def __init__(self, conns: set[asyncssh.SSHServerConnection]) -> None:
        self._conns = conns

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._conn = conn
        self._conns.add(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._conns.discard(self._conn)

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        del dest_host, dest_port, orig_host, orig_port
        return True  # asyncssh has checked the key's permitopen, and connects


@asynccontextmanager
async def serve(sock: socket.socket, host_key: asyncssh.SSHKey, authorized_keys: str) -> AsyncIterator[None]:
    """Serve SSH on the bound socket `sock`, which is closed at the end."""
    conns: set[asyncssh.SSHServerConnection] = set()
    acceptor = await asyncssh.listen(
        sock=sock,
        server_factory=lambda: _Session(conns),
        server_host_keys=[host_key],
        authorized_client_keys=asyncssh.import_authorized_keys(authorized_keys),
        gss_host=None,
        agent_forwarding=False,
        x11_forwarding=False,
        allow_pty=False,
        login_timeout=10,
    )
    try:
        yield
    finally:
        acceptor.close()
        for conn in conns.copy():
            conn.abort()
            with suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_WITHIN):
                    await conn.wait_closed()
        await acceptor.wait_closed()
