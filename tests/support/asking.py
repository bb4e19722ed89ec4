"""The standard library's HTTP client, run in a thread: admin tests must not use the client of kubemux."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from proxy.runtime.endpoint import Endpoint

SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer to a request."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> object:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Asker:
    """Sends requests to `where`, a TCP address or the path of a unix socket; with `tls`, to a server called
    `name`.

    Each request has a connection of its own.
    """

    where: Endpoint | Path
    tls: ssl.SSLContext | None = None
    name: str = "localhost"

    async def get(self, target: str, **headers: str) -> Answered:
        return await self.ask("GET", target, **headers)

    async def post(self, target: str) -> Answered:
        return await self.ask("POST", target)

    async def ask(self, method: str, target: str, **headers: str) -> Answered:
        """Send a request. Header fields are keywords: `accept_encoding="gzip"`.

        Raises OSError (which ssl.SSLError is), http.client.HTTPException.
        """
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        return await asyncio.to_thread(self._ask, method, target, fields)

    def _ask(self, method: str, target: str, headers: Mapping[str, str]) -> Answered:
        with socket.socket(socket.AF_UNIX if isinstance(self.where, Path) else socket.AF_INET) as sock:
            sock.settimeout(SECONDS)
            sock.connect(str(self.where) if isinstance(self.where, Path) else tuple(self.where))
            connection = http.client.HTTPConnection(self.name)
            connection.sock = self.tls.wrap_socket(sock, server_hostname=self.name) if self.tls else sock
            try:
                connection.request(method, target, headers=headers)
                answer = connection.getresponse()
                return Answered(answer.status, answer.headers, answer.read())
            finally:
                connection.close()
