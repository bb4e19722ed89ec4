"""Sends one HTTP/1.1 GET on a TLS stream, and decides whether the answer means a healthy API server.

h11 parses HTTP (RFC 9112). For the endpoints of an API server see
https://kubernetes.io/docs/reference/using-api/health-checks/
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import h11

from proxy import __version__
from proxy.health.result import Failure, Result
from proxy.health.stream import TlsStream
from proxy.runtime.text import printable

MAX_BODY: Final = 64 * 1024
MAX_HEADER: Final = 16 * 1024
_HEALTH_PATHS: Final = frozenset({"healthz", "livez", "readyz"})


@dataclass(frozen=True, slots=True)
class Answer:
    """The status code and the first 64 KiB of the body."""

    status: int
    body: bytes


async def get(stream: TlsStream, path: str, *, host: str, token: str | None) -> Answer:
    """Send a GET of `path` (origin form) and return the answer.

    `host` is the Host header, `token` a bearer token of visible ASCII. Raises h11.RemoteProtocolError if the
    answer is not HTTP, ConnectionResetError if it is cut off, ssl.SSLError, OSError.
    """
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEADER)
    headers = [
        ("Host", host),
        ("User-Agent", f"kubemux/{__version__}"),
        ("Accept", "*/*"),
        ("Connection", "close"),
    ]
    if token is not None:
        headers.append(("Authorization", f"Bearer {token}"))
    request = connection.send(h11.Request(method="GET", target=path, headers=headers)) or b""
    await stream.send(request + (connection.send(h11.EndOfMessage()) or b""))
    status, body, ended = 0, bytearray(), False
    while len(body) < MAX_BODY:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError as exc:
            if ended:
                raise ConnectionResetError("the connection ended before the answer did") from exc
            raise
        match event:
            case h11.NEED_DATA:
                data = await stream.receive()
                ended = not data
                connection.receive_data(data)
            case h11.Response(status_code=status):
                pass
            case h11.Data(data=data):
                body += data
            case h11.InformationalResponse():
                pass  # a server may send 1xx before the answer: RFC 9110 15.2
            case _:
                break
    return Answer(status, bytes(body[:MAX_BODY]))


def judge(answer: Answer, path: str, *, base: str = "") -> None:
    """Raise Failure if the answer to a GET of `path` below `base` does not mean healthy.

    The result is `unauthorized`, which counts as alive, or `unhealthy`. For /healthz, /livez and /readyz the
    body is compared, too: a captive portal or a load balancer also answers with 200.
    """
    status, asked = answer.status, base + path
    if status in {401, 403}:
        raise Failure(
            Result.UNAUTHORIZED,
            f"HTTP {status} for {asked}: alive, but it wants other credentials",
            status=status,
        )
    if not 200 <= status < 300:
        hint = "probe.path does not exist there: /healthz, /livez and /readyz do" if status == 404 else None
        raise Failure(
            Result.UNHEALTHY, f"HTTP {status} for {asked}{_reported(answer.body)}", hint=hint, status=status
        )
    body = answer.body.strip()
    endpoint = path.partition("?")[0].strip("/").partition("/")[0]
    if endpoint in _HEALTH_PATHS and body != b"ok" and not body.endswith(b"check passed"):
        raise Failure(
            Result.UNHEALTHY, f"HTTP {status} for {asked}, but not the body of an API server", status=status
        )


def _reported(body: bytes) -> str:
    """The checks that an API server lists as failed (`[-]etcd failed: reason withheld`), for a message.

    If it lists none, the first line of the body. Control characters are removed.
    """
    lines = body.decode("utf-8", "replace").splitlines()
    chosen = [line.removeprefix("[-]") for line in lines if line.startswith("[-]")] or lines[:1]
    text = printable("; ".join(chosen))
    return f": {text}" if text else ""
