"""The admin server: HTTP on loopback (read only) and on a unix socket (the same, and the changing calls).

    GET  /metrics /healthz /readyz[?verbose] /status /          both
    POST /-/reload /-/reconnect?gateway= /-/drain?cluster= /-/probe?cluster=      unix socket only; 404 over
    TCP

Errors are JSON: {"error": sentence, "reason": word, "hint": remedy}; a refused configuration adds "path" and
"problems". Who may connect is decided before HTTP: the socket's mode, the loopback address. What remains over
TCP is a browser lured to a name that resolves to 127.0.0.1, hence the check of `Host` (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import structlog

from proxy.admin import status
from proxy.admin.connections import Connections, Handler
from proxy.admin.http import Request, Response
from proxy.admin.orders import Control
from proxy.admin.unix_listener import UnixListener
from proxy.errors import ConfigError, ListenError, ProxyError, UnknownName
from proxy.metrics import Metrics
from proxy.metrics.exposition import expose
from proxy.runtime.endpoint import Endpoint
from proxy.snapshots import DaemonSnapshot

log = structlog.get_logger("kubemux.admin")

_INDEX: Final = "".join(
    ["<!doctype html><title>kubemux</title><ul>"]
    + [f'<li><a href="{path}">{path}</a>' for path in ("/status", "/readyz?verbose", "/healthz", "/metrics")]
    + ["</ul>\n"]
)


class AdminServer:
    """Serves snapshots and metrics, and passes orders on.

    Start one side, both, or go on without one that fails.
    """

    def __init__(
        self,
        *,
        snapshot: Callable[[], DaemonSnapshot],
        metrics: Metrics,
        control: Control,
        idle_timeout: float = 10.0,
        answer_timeout: float = 10.0,
    ) -> None:
        """`idle_timeout`: seconds a client may take to send a request; `answer_timeout`: until it has the
        answer.
        """
        self._snapshot = snapshot
        self._exposed = metrics
        self._control = control
        self._idle_timeout = idle_timeout
        self._answer_timeout = answer_timeout
        self._servers: list[tuple[asyncio.AbstractServer, Connections]] = []
        self._unix: UnixListener | None = None
        self._reads: dict[str, Handler] = {
            "/": self._index,
            "/metrics": self._metrics,
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/status": self._status,
        }
        self._writes: dict[str, Handler] = {
            "/-/reload": self._reload,
            "/-/reconnect": self._reconnect,
            "/-/drain": self._drain,
            "/-/probe": self._probe,
        }

    def __repr__(self) -> str:
        return (
            f"<AdminServer {len(self._servers)} listening, "
            f"{sum(len(served) for _, served in self._servers)} connections>"
        )

    async def start_tcp(self, where: Endpoint | socket.socket) -> Endpoint:
        """Serve the reads on `where`, an address or a bound socket (socket activation).

        Returns the bound address.

        Raises ListenError.
        """
        listen = Endpoint(*where.getsockname()[:2]) if isinstance(where, socket.socket) else where
        # Beyond loopback (`allow_remote: true`) any name may lead here, and a browser's page could as well
        # ask for itself.
        host = listen.host if listen.is_loopback else None
        served = self._connections(partial(self._answer, self._reads, host), f"admin {listen}")
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
        """Serve the reads and the changing calls on a unix socket at `path`, mode 0600.

        Raises ListenError.
        """
        listener = UnixListener(path)
        served = self._connections(partial(self._answer, self._reads | self._writes, None), f"admin {path}")
        server = await asyncio.get_running_loop().create_unix_server(served, sock=listener.socket)
        self._unix = listener
        self._servers.append((server, served))

    async def close(self) -> None:
        """Stop listening, let running calls end (up to 2 s), and close every connection. Idempotent."""
        if self._unix:
            self._unix.unlink()
        for server, _ in self._servers:
            server.close()
        await asyncio.gather(*(served.close(grace=2.0) for _, served in self._servers))
        self._servers.clear()

    def _connections(self, handler: Handler, name: str) -> Connections:
        return Connections(
            handler, name=name, idle_timeout=self._idle_timeout, answer_timeout=self._answer_timeout
        )

    # ------------------------------------------------------------------------------------------ one request

    async def _answer(self, handlers: dict[str, Handler], host: str | None, request: Request) -> Response:
        # HTTP/1.0 may come without one (h11 refuses that of 1.1), as simple health checks do; no browser
        # speaks it.
        named = request.headers.get("host")
        if host is not None and named is not None and not host_allowed(named, host):
            return _error(403, "this Host is not served here", hint=f"ask for {host} or localhost")
        handler = handlers.get(request.path)
        if not handler:
            return _error(404, f"there is no {request.path}", hint=f"there are: {' '.join(handlers)}")
        methods = ("POST",) if request.path in self._writes else ("GET", "HEAD")
        if request.method not in methods:
            refused = _error(405, f"{request.path} does not take {request.method}", hint=f"use {methods[0]}")
            refused.headers["Allow"] = ", ".join(methods)
            return refused
        try:
            return await handler(request)
        except ConfigError as exc:
            problems = [asdict(problem) for problem in exc.problems]
            return _error(
                422, str(exc), reason=exc.reason, hint="nothing was changed", path=exc.path, problems=problems
            )
        except ProxyError as exc:
            return _error(
                404 if isinstance(exc, UnknownName) else 500, str(exc), reason=exc.reason, hint=exc.hint
            )
        except Exception:
            log.exception("admin request failed", method=request.method, path=request.path)
            return _error(500, "internal error", hint="this is a bug; the daemon's log has the traceback")

    async def _index(self, request: Request) -> Response:  # noqa: ARG002 - a Handler
        return Response.text(_INDEX, content_type="text/html")

    async def _healthz(self, request: Request) -> Response:  # noqa: ARG002 - a Handler
        return Response.text("ok\n")

    async def _readyz(self, request: Request) -> Response:
        snapshot = self._snapshot()
        if status.is_ready(snapshot) and "verbose" not in request.query:
            return Response.text("ok\n")
        return Response.text(status.readiness(snapshot), 200 if status.is_ready(snapshot) else 503)

    async def _status(self, request: Request) -> Response:  # noqa: ARG002 - a Handler
        return Response.json(status.to_document(self._snapshot()))

    async def _metrics(self, request: Request) -> Response:
        body, headers = await expose(
            self._exposed,
            accept=request.headers.get("accept", ""),
            accept_encoding=request.headers.get("accept-encoding", ""),
        )
        return Response(body, headers=headers)

    async def _reload(self, request: Request) -> Response:  # noqa: ARG002 - a Handler
        return Response.json(asdict(await self._control.reload()))

    async def _reconnect(self, request: Request) -> Response:
        return await _tell(self._control.reconnect, "gateway", request)

    async def _drain(self, request: Request) -> Response:
        async def drain(cluster: str) -> Mapping[str, object]:
            return {"cut": await self._control.drain(cluster)}

        return await _tell(drain, "cluster", request)

    async def _probe(self, request: Request) -> Response:
        return await _tell(self._control.probe, "cluster", request)


async def _tell(
    call: Callable[[str], Awaitable[Mapping[str, object] | None]], kind: str, request: Request
) -> Response:
    name = request.query.get(kind)
    if not name:
        return _error(400, f"which {kind}?", hint=f"POST {request.path}?{kind}=NAME")
    return Response.json({kind: name, **(await call(name) or {})})


def _error(code: int, sentence: str, *, reason: str = "admin", hint: str = "", **more: object) -> Response:
    return Response.json({"error": sentence, "reason": reason, "hint": hint, **more}, code)


def host_allowed(header: str, listen: str) -> bool:
    """Whether a request's `Host` names this machine: `localhost`, a loopback address, or the configured
    `listen` host.
    """
    try:
        name = urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return False
    return name == listen.lower() or Endpoint(name, 0).is_loopback


def _listen_error(listen: Endpoint, exc: OSError) -> ListenError:
    # The loop wraps the system's words in its own ("error while attempting to bind on address ...");
    # getaddrinfo's are negative.
    text = os.strerror(exc.errno) if exc.errno and exc.errno > 0 else exc.strerror or str(exc)
    if exc.errno == errno.EADDRINUSE:
        hint = (
            f"find who has it: ss -ltnp 'sport = :{listen.port}'; then stop that, or choose another "
            "port for admin.listen"
        )
    else:
        hint = "choose an address of this machine and a port above 1023 for admin.listen"
    return ListenError(f"admin.listen {listen}: {text}", hint=hint)
