"""The admin endpoints, as a Starlette app.

    GET  /metrics /healthz /readyz[?verbose] /status /                         everywhere
    POST /-/reload /-/reconnect?gateway= /-/drain?cluster= /-/probe?cluster= /-/end?caller=[&of=]
                                                              unix socket only; 404 over TCP

Errors are JSON: {"error": sentence, "reason": word, "hint": remedy}; a refused configuration adds "path" and
"problems". There are no passwords: the mode of the unix socket and the loopback address decide who can
connect. One attack remains over TCP: a web page makes a browser of this machine send requests to a name that
resolves to 127.0.0.1 (DNS rebinding). The check of `Host` refuses these.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Final
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from proxy.admin import status
from proxy.admin.orders import Control
from proxy.errors import ConfigError, ProxyError, UnknownName
from proxy.errors.reasons import Reason
from proxy.metrics import Metrics
from proxy.metrics.exposition import expose
from proxy.runtime.endpoint import Endpoint
from proxy.snapshots import DaemonSnapshot

_INDEX: Final = "".join(
    ["<!doctype html><title>kubemux</title><ul>"]
    + [f'<li><a href="{path}">{path}</a>' for path in ("/status", "/readyz?verbose", "/healthz", "/metrics")]
    + ["</ul>\n"]
)


class _Path(Route):
    """A route for exactly one path. Starlette's pattern ends in `$`, which also allows a line feed there."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether the request is for this path."""
        return super().matches(scope) if scope["path"] == self.path else (Match.NONE, {})


class Endpoints:
    """The endpoints of one daemon: those that read its state, and those that give it orders."""

    def __init__(self, snapshot: Callable[[], DaemonSnapshot], metrics: Metrics, control: Control) -> None:
        self._snapshot = snapshot
        self._exposed = metrics
        self._control = control
        self._scrape_turn = asyncio.Lock()

    def reads(self, *, host: str | None) -> ASGIApp:
        """The app with the endpoints that only read.

        If `host` is given, it refuses requests whose `Host` is neither that nor a name of this machine.
        """
        app = _app(self._reads())
        return app if host is None else _only_for(host, app)

    def all(self) -> ASGIApp:
        """The app with all endpoints."""
        return _app([*self._reads(), *self._orders()])

    def _reads(self) -> list[Route]:
        return [
            _Path("/", self._index),
            _Path("/metrics", self._metrics),
            _Path("/healthz", self._healthz),
            _Path("/readyz", self._readyz),
            _Path("/status", self._status),
        ]

    def _orders(self) -> list[Route]:
        return [
            _Path("/-/reload", self._reload, methods=["POST"]),
            _Path("/-/reconnect", self._reconnect, methods=["POST"]),
            _Path("/-/drain", self._drain, methods=["POST"]),
            _Path("/-/probe", self._probe, methods=["POST"]),
            _Path("/-/end", self._end, methods=["POST"]),
        ]

    async def _index(self, request: Request) -> Response:  # noqa: ARG002 - an endpoint
        return HTMLResponse(_INDEX)

    async def _healthz(self, request: Request) -> Response:  # noqa: ARG002 - an endpoint
        return PlainTextResponse("ok\n")

    async def _readyz(self, request: Request) -> Response:
        snapshot = self._snapshot()
        if status.is_ready(snapshot) and "verbose" not in request.query_params:
            return PlainTextResponse("ok\n")
        return PlainTextResponse(status.readiness(snapshot), 200 if status.is_ready(snapshot) else 503)

    async def _status(self, request: Request) -> Response:  # noqa: ARG002 - an endpoint
        return _json(status.to_document(self._snapshot()))

    async def _metrics(self, request: Request) -> Response:
        exposed = expose(
            self._exposed,
            self._scrape_turn,
            accept=request.headers.get("accept", ""),
            accept_encoding=request.headers.get("accept-encoding", ""),
        )
        return StreamingResponse(exposed.pieces, headers=exposed.headers)

    async def _reload(self, request: Request) -> Response:  # noqa: ARG002 - an endpoint
        return _json(asdict(await self._control.reload()))

    async def _reconnect(self, request: Request) -> Response:
        return await _ordered(self._control.reconnect, "gateway", request)

    async def _drain(self, request: Request) -> Response:
        async def drain(cluster: str) -> Mapping[str, object]:
            return asdict(await self._control.drain(cluster))

        return await _ordered(drain, "cluster", request)

    async def _probe(self, request: Request) -> Response:
        return await _ordered(self._control.probe, "cluster", request)

    async def _end(self, request: Request) -> Response:
        async def end(caller: str) -> Mapping[str, object]:
            return {"ended": await self._control.end(caller, request.query_params.get("of"))}

        return await _ordered(end, "caller", request)


async def _ordered(
    call: Callable[[str], Awaitable[Mapping[str, object] | None]], kind: str, request: Request
) -> Response:
    name = request.query_params.get(kind)
    if not name:
        return _error(400, f"which {kind}?", hint=f"POST {request.url.path}?{kind}=NAME")
    return _json({kind: name, **(await call(name) or {})})


def host_allowed(header: str, listen: str) -> bool:
    """Whether a request's `Host` names this machine: `localhost`, a loopback address, or the configured
    `listen` host.
    """
    try:
        name = urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return False
    return name == listen.lower() or Endpoint(name, 0).is_loopback


def _only_for(host: str, app: ASGIApp) -> ASGIApp:
    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        # Simple health checks send HTTP/1.0 without `Host`. Browsers send HTTP/1.1, where h11 demands it.
        named = Headers(scope=scope).get("host")
        if named is not None and not host_allowed(named, host):
            refused = _error(403, "this Host is not served here", hint=f"ask for {host} or localhost")
            await refused(scope, receive, send)
        else:
            await app(scope, receive, send)

    return guarded


def _app(routes: Sequence[Route]) -> Starlette:
    async def no_such_path(request: Request, _: Exception) -> Response:
        hint = f"there are: {' '.join(route.path for route in routes)}"
        return _error(404, f"there is no {request.scope['path']}", hint=hint)

    async def no_such_method(request: Request, _: Exception) -> Response:
        path = request.scope["path"]
        methods = ("POST",) if path.startswith("/-/") else ("GET", "HEAD")
        refused = _error(405, f"{path} does not take {request.method}", hint=f"use {methods[0]}")
        refused.headers["Allow"] = ", ".join(methods)
        return refused

    app = Starlette(
        routes=routes,
        exception_handlers={
            404: no_such_path,
            405: no_such_method,
            ConfigError: _refused,
            UnknownName: _unknown,
            ProxyError: _failed,
            Exception: _bug,
        },
    )
    app.router.redirect_slashes = False
    return app


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, ConfigError)  # noqa: S101 - as registered
    problems = [asdict(problem) for problem in error.problems]
    hint = "nothing was changed"
    return _error(422, str(error), reason=error.reason, hint=hint, path=error.path, problems=problems)


async def _unknown(_: Request, error: Exception) -> Response:
    assert isinstance(error, UnknownName)  # noqa: S101 - as registered
    return _error(404, str(error), reason=error.reason, hint=error.hint)


async def _failed(_: Request, error: Exception) -> Response:
    assert isinstance(error, ProxyError)  # noqa: S101 - as registered
    return _error(500, str(error), reason=error.reason, hint=error.hint)


async def _bug(_: Request, error: Exception) -> Response:  # noqa: ARG001 - the connection logs it
    return _error(500, "internal error", hint="this is a bug; the daemon's log has the traceback")


def _error(
    code: int, sentence: str, *, reason: Reason = Reason.ADMIN, hint: str = "", **more: object
) -> Response:
    return _json({"error": sentence, "reason": reason, "hint": hint, **more}, code)


def _json(document: object, code: int = 200) -> Response:
    return Response(json.dumps(document), code, media_type="application/json; charset=utf-8")
