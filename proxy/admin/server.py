"""The admin server. On TCP it serves the endpoints that only read, on a unix socket all of them."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from starlette.types import ASGIApp

from proxy.admin.endpoints import Endpoints
from proxy.admin.http.connection import Deadlines
from proxy.admin.http.serving import Serving
from proxy.admin.orders import Control
from proxy.admin.usual import OF_SERVICE, proposed
from proxy.entries import unix_socket
from proxy.errors import ListenError
from proxy.metrics import Metrics
from proxy.runtime.endpoint import Endpoint
from proxy.snapshots import DaemonSnapshot

_GRACE_S: Final = 2.0
"""How long a stop waits for requests that are being answered."""


class AdminServer:
    """Listens on TCP and on a unix socket. Each is started on its own, so one works if the other fails."""

    def __init__(
        self,
        *,
        snapshot: Callable[[], DaemonSnapshot],
        metrics: Metrics,
        control: Control,
        deadlines: Deadlines | None = None,
    ) -> None:
        self._endpoints = Endpoints(snapshot, metrics, control)
        self._deadlines = deadlines
        self._servers: list[tuple[asyncio.AbstractServer, Serving]] = []
        self._unix: socket.socket | None = None

    def __repr__(self) -> str:
        connections = sum(len(served) for _, served in self._servers)
        return f"<AdminServer {len(self._servers)} listening, {connections} connections>"

    async def start_tcp(self, where: Endpoint | socket.socket) -> Endpoint:
        """Serve the reads on `where`, an address or a bound socket (socket activation).

        Returns the bound address.

        Raises ListenError.
        """
        listen = Endpoint(*where.getsockname()[:2]) if isinstance(where, socket.socket) else where
        # On another address (`allow_remote: true`) any name may lead here, so `Host` proves nothing.
        host = listen.host if listen.is_loopback else None
        served = self._serving(self._endpoints.reads(host=host), f"admin {listen}")
        loop = asyncio.get_running_loop()
        try:
            if isinstance(where, socket.socket):
                server = await loop.create_server(served, sock=where)
            else:
                server = await loop.create_server(served, where.host, where.port)
        except OSError as exc:
            raise _listen_error(listen, exc) from exc
        self._servers.append((server, served))
        return Endpoint(*server.sockets[0].getsockname()[:2])

    async def start_unix(self, path: Path) -> None:
        """Serve the reads and the orders on a unix socket at `path`, mode 0600.

        Raises ListenError.
        """
        sock = unix_socket.bind(path, f"admin.socket {path}", otherwise=_otherwise())
        served = self._serving(self._endpoints.all(), f"admin {path}")
        server = await asyncio.get_running_loop().create_unix_server(served, sock=sock)
        self._unix = sock
        self._servers.append((server, served))

    async def close(self) -> None:
        """Stop listening, let running requests end (up to 2 s), and close every connection. Idempotent."""
        if self._unix:
            unix_socket.end_listening(self._unix)
            self._unix = None
        for server, _ in self._servers:
            server.close()
        await asyncio.gather(*(served.close(grace=_GRACE_S) for _, served in self._servers))
        self._servers.clear()

    def _serving(self, app: ASGIApp, name: str) -> Serving:
        return Serving(app, name=name, deadlines=self._deadlines)


def _otherwise() -> str:
    """The remedy where the folder of `admin.socket` cannot be used."""
    if (path := proposed()) == OF_SERVICE:
        return "; under systemd: RuntimeDirectory=kubemux"
    return f", or choose one of your own: admin: {{socket: {path}}}"


def _listen_error(listen: Endpoint, exc: OSError) -> ListenError:
    # Not str(exc): the loop wraps the system's text ("error while attempting to bind on address ..."). A
    # negative errno is one of getaddrinfo, whose text is already in strerror.
    text = os.strerror(exc.errno) if exc.errno and exc.errno > 0 else exc.strerror or str(exc)
    if exc.errno == errno.EADDRINUSE:
        hint = (
            f"find who has it: ss -ltnp 'sport = :{listen.port}'; then stop that, or choose another "
            "port for admin.listen"
        )
    else:
        hint = "choose an address of this machine and a port above 1023 for admin.listen"
    return ListenError(f"admin.listen {listen}: {text}", hint=hint)
