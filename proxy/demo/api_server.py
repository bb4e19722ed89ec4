"""A stand-in for an API server: as much of the Kubernetes API as `kubectl get` needs, read only, over HTTPS.

Health and version are for anybody, everything else wants the bearer token, as in a cluster that kubeadm made.
"""

from __future__ import annotations

import hmac
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from proxy.demo import objects
from proxy.demo.objects import RESOURCES, Contents, Json

_PUBLIC: Final = frozenset({"/healthz", "/livez", "/readyz", "/version"})
_CLOSE_WITHIN = 1.0


@asynccontextmanager
async def serve(sock: socket.socket, tls: ssl.SSLContext, contents: Contents, *, token: str) -> AsyncIterator[None]:
    """Serve `contents` on the bound socket `sock`, which is closed at the end."""
    runner = web.AppRunner(_Server(contents, token).app(), access_log=None, shutdown_timeout=_CLOSE_WITHIN)
    await runner.setup()
    try:
        await web.SockSite(runner, sock, ssl_context=tls).start()
        yield
    finally:
        await runner.cleanup()


class _Server:
    def __init__(self, contents: Contents, token: str) -> None:
        self._contents = contents
        self._authorization = f"Bearer {token}".encode()

    def app(self) -> web.Application:
        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            return self._refusal(request) or await handler(request)

        app = web.Application(middlewares=[guard])
        for path in ("/healthz", "/livez", "/readyz"):
            app.router.add_get(path, _ok)
        app.router.add_get("/version", _fixed(objects.VERSION))
        app.router.add_get("/api", _fixed({"kind": "APIVersions", "versions": ["v1"]}))
        app.router.add_get("/apis", _fixed({"kind": "APIGroupList", "apiVersion": "v1", "groups": []}))
        app.router.add_get("/api/v1", _fixed(objects.discovery()))
        for scope in ("", "/namespaces/{namespace}"):
            app.router.add_get(f"/api/v1{scope}/{{plural}}", self._list)
            app.router.add_get(f"/api/v1{scope}/{{plural}}/{{name}}", self._get)
        app.router.add_get("/{path:.*}", _missing)
        return app

    def _refusal(self, request: web.Request) -> web.Response | None:
        if request.path in _PUBLIC:
            return None
        if not hmac.compare_digest(request.headers.get("Authorization", "").encode(), self._authorization):
            return _failure(401, "Unauthorized", "Unauthorized")
        if request.method != "GET" or "watch" in request.query:
            return _failure(405, "MethodNotAllowed", "the demo's clusters can be looked at only: get and list")
        return None

    async def _list(self, request: web.Request) -> web.Response:
        return self._answer(request, single=False)

    async def _get(self, request: web.Request) -> web.Response:
        return self._answer(request, single=True)

    def _answer(self, request: web.Request, *, single: bool) -> web.Response:
        """A table where kubectl asks for one, else a list or a single object."""
        place = request.match_info
        namespace, name = place.get("namespace", ""), place.get("name", "")
        resource = RESOURCES.get(place["plural"])
        if resource is None or (namespace and not resource.namespaced) or (single and resource.namespaced and not namespace):
            return _not_found()
        items = self._contents.find(resource.plural, namespace=namespace, name=name)
        if single and not items:
            return _failure(404, "NotFound", f'{resource.plural} "{name}" not found')
        created = self._contents.created
        if "as=Table" in request.headers.get("Accept", ""):
            return web.json_response(objects.as_table(resource, items, created, datetime.now(UTC)))
        if single:
            return web.json_response(objects.as_object(resource, items[0], created))
        return web.json_response(objects.as_list(resource, items, created))


async def _ok(_: web.Request) -> web.Response:
    return web.Response(text="ok")


async def _missing(_: web.Request) -> web.Response:
    return _not_found()


def _fixed(body: Json) -> Handler:
    async def handler(_: web.Request) -> web.Response:
        return web.json_response(body)

    return handler


def _not_found() -> web.Response:
    return _failure(404, "NotFound", f"the demo's clusters have {', '.join(RESOURCES)} only")


def _failure(code: int, reason: str, message: str) -> web.Response:
    return web.json_response(objects.failure(code, reason, message), status=code)
