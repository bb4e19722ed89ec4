"""One client's HTTP/1.1: requests in, answers out, one after another. h11 knows the protocol (RFC 9112), a
stream carries it.

Small on purpose: no request's body is read, every answer is there in full when it is sent. Deadlines are the
caller's (`proxy/admin/connections.py`): whoever waits here may be cancelled at any time, and the connection
is closed then.

What others might read in another way than we do is refused, and its connection closed: see
`_refuse_ambiguous`.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qsl, unquote

import h11

MAX_HEAD: Final = 16 * 1024
"""Bytes of a request's line and fields: twice what nginx and Apache take by default."""

MAX_FIELDS: Final = 64
LINGER_S: Final = 1.0
_PIECE: Final = 4096
_SENT_PIECE: Final = 64 * 1024
"""Bytes of an answer at a time: that a client takes them tells that it reads at all."""
_HOST: Final = re.compile(
    r"(?:\[[0-9A-Fa-f:.]+\]|(?:[\w.~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(?::[0-9]*)?", re.ASCII
)
"""RFC 9110 7.2: uri-host [":" port], as RFC 3986 3.2.2 writes them. It may be empty."""
SERVER: Final = "kubemux"
"""The field `Server` of every answer: what tells this daemon from another program at its address."""
_ALWAYS: Final = {"Server": SERVER, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_DATE: Final = "%a, %d %b %Y %H:%M:%S GMT"
"""RFC 9110 5.6.7.

Not `email.utils.formatdate`, whose imports are 0.4 MB; nothing in the daemon sets LC_TIME to other names.
"""


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for.

    `path` is decoded; the names in `headers` are in lower case; of a repeated field the last counts.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]

    @property
    def is_safe(self) -> bool:
        """Whether it only reads (RFC 9110 9.2.1), so that it may be given up halfway."""
        return self.method in {"GET", "HEAD"}


@dataclass(frozen=True, slots=True)
class Response:
    """An answer in full."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def text(cls, text: str, status: int = 200, *, content_type: str = "text/plain") -> Response:
        """Text in UTF-8."""
        return cls(text.encode(), status, {"Content-Type": f"{content_type}; charset=utf-8"})

    @classmethod
    def json(cls, document: object, status: int = 200) -> Response:
        """JSON; `document` is what `json.dumps` takes."""
        return cls(json.dumps(document).encode(), status, {"Content-Type": "application/json; charset=utf-8"})


class Conversation:
    """The server's side of one connection. Methods raise OSError when the client has gone."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self._is_refused = False
        # An answer then counts as sent when the kernel has all of it, so a deadline on `send` covers every
        # byte.
        writer.transport.set_write_buffer_limits(high=0)

    @property
    def goes_on(self) -> bool:
        """Whether another request may follow: both sides keep the connection alive, and all of the last one
        was read.
        """
        return (
            not self._is_refused and self._http.our_state is h11.DONE and self._http.their_state is h11.DONE
        )

    async def receive(self) -> Request | None:
        """The next request; None when the client has ended the connection. Raises h11.RemoteProtocolError."""
        if self.goes_on:
            self._http.start_next_cycle()
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._reader.read(_PIECE))
        if not isinstance(event, h11.Request):
            return None
        request = _request(event)
        try:
            _refuse_ambiguous(event, request)
        except h11.RemoteProtocolError:
            self._is_refused = True
            raise
        # What is here of a body is skipped. The rest is not waited for: see `goes_on`.
        while isinstance(self._http.next_event(), h11.Data):
            pass
        return request

    async def send(
        self, response: Response, *, head: bool = False, on_progress: Callable[[], None] = lambda: None
    ) -> None:
        """Send an answer; of one to HEAD not the body.

        Returns when the kernel has it; `on_progress` after each piece.
        """
        fields = [
            *response.headers.items(),
            *_ALWAYS.items(),
            ("Date", time.strftime(_DATE, time.gmtime())),
            ("Content-Length", str(len(response.body))),
        ]
        if self._is_refused or self._http.their_state is not h11.DONE:
            fields.append(("Connection", "close"))
        reason = HTTPStatus(response.status).phrase
        sent = [self._http.send(h11.Response(status_code=response.status, reason=reason, headers=fields))]
        if not head:
            sent.append(self._http.send(h11.Data(data=response.body)))
        sent.append(self._http.send(h11.EndOfMessage()))
        data = memoryview(b"".join(filter(None, sent)))
        for start in range(0, len(data), _SENT_PIECE):
            if self._writer.is_closing():  # uvloop's transports raise RuntimeError then
                raise ConnectionResetError("the client has gone")
            self._writer.write(data[start : start + _SENT_PIECE])
            await self._writer.drain()
            on_progress()

    def abort(self) -> None:
        """End it at once; whoever waits for it hears of it."""
        self._writer.transport.abort()

    async def close(self) -> None:
        """End it so that the last answer arrives."""
        try:
            async with asyncio.timeout(LINGER_S):
                rest = self._is_refused or self._http.their_state in (h11.SEND_BODY, h11.ERROR)
                if rest and not self._writer.is_closing():
                    # Closed with bytes unread the kernel resets, and the client loses what it has not read:
                    # RFC 9112 9.6.
                    if self._writer.can_write_eof():  # not under TLS
                        self._writer.write_eof()
                    while await self._reader.read(_PIECE):
                        pass
                self._writer.close()
                await self._writer.wait_closed()
        except OSError:  # TimeoutError is one
            pass
        finally:
            self._writer.transport.abort()


def _request(event: h11.Request) -> Request:
    target = event.target.decode("ascii", "replace")
    headers = {name.decode("ascii"): value.decode("latin-1") for name, value in event.headers}
    if not target.startswith(
        "/"
    ):  # RFC 9112 3.2.2: the absolute form is for proxies, but must be taken, its host for `Host`
        authority, _, rest = target.partition("://")[2].partition("/")
        target = f"/{rest}"
        if authority:
            headers["host"] = authority
    path, _, query = target.partition("?")
    return Request(
        method=event.method.decode("ascii"),
        path=unquote(path),
        query=dict(parse_qsl(query, keep_blank_values=True)),
        headers=headers,
    )


def _refuse_ambiguous(event: h11.Request, request: Request) -> None:
    """Raise h11.RemoteProtocolError for what two readers may understand in two ways, which is how requests
    are smuggled.

    h11 itself refuses a space before a colon, a bare CR, NUL, two `Host`s or none in HTTP/1.1, lengths that
    differ and codings other than `chunked`. A bare LF ends a line and a folded line is joined by a space, as
    RFC 9112 2.2 and 5.2 allow.
    """
    if len(event.headers) > MAX_FIELDS:
        raise h11.RemoteProtocolError("too many fields", error_status_hint=431)
    if "transfer-encoding" in request.headers:
        if "content-length" in request.headers:  # RFC 9112 6.3, 3
            raise h11.RemoteProtocolError("both Content-Length and Transfer-Encoding", error_status_hint=400)
        if event.http_version < b"1.1":  # RFC 9112 6.1
            raise h11.RemoteProtocolError("Transfer-Encoding in HTTP/1.0", error_status_hint=400)
    hosts = [value for name, value in event.headers if name == b"host"]
    if len(hosts) > 1 or not _HOST.fullmatch(request.headers.get("host", "")):  # RFC 9112 3.2
        raise h11.RemoteProtocolError("invalid Host", error_status_hint=400)


def refusal(error: h11.RemoteProtocolError) -> Response:
    """The answer to what is not HTTP, or too long."""
    return Response.text(f"{error}\n", error.error_status_hint)
