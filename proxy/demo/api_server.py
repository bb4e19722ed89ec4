"""A stand-in for an API server. Over HTTPS it serves the part of the Kubernetes API that `kubectl get` needs.

It is read only. As in a cluster made by kubeadm, health and version need no password, and everything else
needs the bearer token.
"""

from __future__ import annotations

import asyncio
import hmac
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from proxy.admin.http.connection import Deadlines
from proxy.admin.http.serving import Serving
from proxy.demo import objects
from proxy.demo.objects import RESOURCES, Contents

_PUBLIC: Final = frozenset({"/healthz", "/livez", "/readyz", "/version"})
_FIXED: Final = {
    "/version": objects.VERSION,
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
    "/api/v1": objects.discovery(),
}
_IDLE_S: Final = 60.0
_CLOSE_WITHIN_S: Final = 1.0


@asynccontextmanager
async def serve(
    sock: socket.socket, tls: ssl.SSLContext, contents: Contents, *, token: str
) -> AsyncIterator[None]:
    """Serve `contents` on the bound socket `sock`, which is closed at the end."""
    serving = Serving(_ApiServer(contents, token), name="api server", deadlines=Deadlines(request=_IDLE_S))
    server = await asyncio.get_running_loop().create_server(serving, sock=sock, ssl=tls)
    try:
        yield
    finally:
        server.close()
        await serving.close(grace=_CLOSE_WITHIN_S)


class _ApiServer:
    def __init__(self, contents: Contents, token: str) -> None:
        self._contents = contents
        self._authorization = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._answer(Request(scope))
        await answer(scope, receive, send)

    def _answer(self, request: Request) -> Response:
        path = request.scope["path"]
        if path not in _PUBLIC:
            if not hmac.compare_digest(
                request.headers.get("authorization", "").encode(), self._authorization
            ):
                return _failure(401, "Unauthorized", "Unauthorized")
            if request.method not in ("GET", "HEAD") or "watch" in request.query_params:
                return _failure(405, "MethodNotAllowed", "the demo's clusters are read only: get and list")
        if path in _FIXED:
            return JSONResponse(_FIXED[path])
        match path.split("/")[1:]:
            case ["healthz" | "livez" | "readyz"]:
                return PlainTextResponse("ok")
            case ["api", "v1", "namespaces", namespace, plural]:
                return self._list(request, plural, namespace=namespace)
            case ["api", "v1", "namespaces", namespace, plural, name]:
                return self._get(request, plural, name, namespace=namespace)
            case ["api", "v1", plural]:
                return self._list(request, plural)
            case ["api", "v1", plural, name]:
                return self._get(request, plural, name)
        return _not_found()

    def _list(self, request: Request, plural: str, *, namespace: str = "") -> Response:
        resource = RESOURCES.get(plural)
        if resource is None or (namespace and not resource.namespaced):
            return _not_found()
        items = self._contents.find(plural, namespace=namespace)
        return self._table(request, plural, items) or JSONResponse(
            objects.as_list(resource, items, self._contents.created)
        )

    def _get(self, request: Request, plural: str, name: str, *, namespace: str = "") -> Response:
        resource = RESOURCES.get(plural)
        if resource is None or bool(namespace) != resource.namespaced:
            return _not_found()
        items = self._contents.find(plural, namespace=namespace, name=name)
        if not items:
            return _failure(404, "NotFound", f'{plural} "{name}" not found')
        return self._table(request, plural, items) or JSONResponse(
            objects.as_object(resource, items[0], self._contents.created)
        )

    def _table(self, request: Request, plural: str, items: list[objects.Item]) -> Response | None:
        """The items as a table, if kubectl asks for one to print."""
        if "as=Table" not in request.headers.get("accept", ""):
            return None
        return JSONResponse(
            objects.as_table(RESOURCES[plural], items, self._contents.created, datetime.now(UTC))
        )


def _not_found() -> Response:
    return _failure(404, "NotFound", f"the demo's clusters have {', '.join(RESOURCES)} only")


def _failure(code: int, reason: str, message: str) -> Response:
    return JSONResponse(objects.failure(code, reason, message), code)
