"""Which requests are refused: ambiguous ones, and those that are too long.

A proxy in front of kubemux must read the same requests from the same bytes as kubemux does. Where the two
differ, a client can smuggle requests past the proxy (RFC 9112 11.2). An ambiguous request gets 400, and the
connection ends.
"""

from __future__ import annotations

import re
from typing import Final

import h11

MAX_HEAD: Final = 16 * 1024
"""Bytes of a request's line and fields: twice what nginx and Apache take by default."""
MAX_FIELDS: Final = 64
_ABSOLUTE: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://([^/]+)(/.*)?")
"""RFC 3986 3; RFC 9110 4.2.1: without a host it is invalid."""
_HOST: Final = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]+\]|(?:[\w.~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(?::[0-9]*)?", re.ASCII
)
"""RFC 9110 7.2: uri-host [":" port], as RFC 3986 3.2.2 writes them. It may be empty."""


class Requests(h11.Connection):
    """The server's side of one connection, stricter than h11's.

    h11 itself refuses a space before a colon, a bare CR, NUL, two `Host`s or none in HTTP/1.1, lengths that
    differ and codings other than `chunked`. A bare LF ends a line and a folded line is joined by a space, as
    RFC 9112 2.2 and 5.2 allow.
    """

    def __init__(self) -> None:
        super().__init__(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self.refusal: h11.RemoteProtocolError | None = None
        """Why a request was refused. uvicorn catches the exception and does not pass it on."""
        self._is_at_start = True
        self._held = b""

    def receive_data(self, data: bytes) -> None:
        """Add received bytes; empty means the end. One empty line before a request is skipped (RFC 9112 2.2),
        which h11 takes for a bad request.
        """
        if not self._is_at_start or not data:
            super().receive_data(data)
            return
        data, self._held = self._held + data, b""
        if data == b"\r":  # its LF may be on the way
            self._held = data
            return
        self._is_at_start = False
        if rest := data.removeprefix(b"\r\n" if data.startswith(b"\r") else b"\n"):
            super().receive_data(rest)

    def start_next_cycle(self) -> None:
        """Wait for the next request. Its first bytes may have arrived already."""
        super().start_next_cycle()
        self._is_at_start = not self.trailing_data[0]

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """What the client sent next. Raises h11.RemoteProtocolError."""
        try:
            event = super().next_event()
            return _checked(event) if isinstance(event, h11.Request) else event
        except h11.RemoteProtocolError as error:
            self.refusal = error
            raise

    @property
    def is_read(self) -> bool:
        """Whether the client's last request was read to its end."""
        return self.refusal is None and self.their_state not in (h11.SEND_BODY, h11.ERROR)


def _checked(request: h11.Request) -> h11.Request:
    if not request.http_version.startswith(b"1."):  # HTTP/2 begins with such a line (RFC 9113 3.4)
        raise h11.RemoteProtocolError("only HTTP/1 is spoken here", error_status_hint=505)
    # h11 checks the length only while a head is incomplete, and one read may bring a whole one of 256 KiB.
    length = len(request.target) + sum(len(name) + len(value) for name, value in request.headers)
    if length > MAX_HEAD or len(request.headers) > MAX_FIELDS:
        raise h11.RemoteProtocolError("too many fields, or too long", error_status_hint=431)
    names = {name for name, _ in request.headers}
    if b"transfer-encoding" in names:
        if b"content-length" in names:  # RFC 9112 6.3, 3
            raise h11.RemoteProtocolError("both Content-Length and Transfer-Encoding")
        if request.http_version < b"1.1":  # RFC 9112 6.1
            raise h11.RemoteProtocolError("Transfer-Encoding in HTTP/1.0")
    if not request.target.startswith(b"/"):
        request = _in_origin_form(request)
    hosts = [value for name, value in request.headers if name == b"host"]
    if len(hosts) > 1 or not _HOST.fullmatch(b"".join(hosts)):  # RFC 9112 3.2
        raise h11.RemoteProtocolError("invalid Host")
    return request


def _in_origin_form(request: h11.Request) -> h11.Request:
    """RFC 9112 3.2: a server must accept the absolute form, whose host replaces `Host`; `*` is the server."""
    headers, path = list(request.headers), b"/"
    if request.target != b"*":
        absolute = _ABSOLUTE.fullmatch(request.target)
        if not absolute:
            raise h11.RemoteProtocolError("invalid request target")
        authority, path = absolute.groups(default=b"/")
        headers = [(name, value) for name, value in headers if name != b"host"] + [(b"host", authority)]
    return h11.Request(method=request.method, target=path, headers=headers, http_version=request.http_version)
