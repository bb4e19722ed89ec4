"""The header fields of every answer, and the answer to a refused request."""

from __future__ import annotations

import re
import time
from ast import literal_eval
from collections.abc import Iterator
from http import HTTPStatus
from typing import Final

import h11

from proxy.admin.http import SERVER
from proxy.runtime.text import shown

Fields = list[tuple[bytes, bytes]]

CLOSE: Final = (b"Connection", b"close")
_DATE: Final = "%a, %d %b %Y %H:%M:%S GMT"
"""RFC 9110 5.6.7. Nothing in the daemon sets LC_TIME, which would give days and months other names."""

_QUOTED: Final = re.compile(r"""bytearray\((b(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"))\)""")
"""What h11 quotes of a request."""


def always() -> Fields:
    """The header fields of every answer, with the current time."""
    return [
        (b"Server", SERVER.encode()),
        (b"Cache-Control", b"no-store"),
        (b"X-Content-Type-Options", b"nosniff"),
        (b"Date", time.strftime(_DATE, time.gmtime()).encode()),
    ]


def refusal(error: h11.RemoteProtocolError) -> Iterator[h11.Response | h11.Data | h11.EndOfMessage]:
    """The answer to a refused request. It announces that the connection ends."""
    status = HTTPStatus(error.error_status_hint)
    body = f"{_QUOTED.sub(_plainly, str(error))}\n".encode()
    fields = [
        *always(),
        (b"Content-Type", b"text/plain; charset=utf-8"),
        (b"Content-Length", str(len(body)).encode()),
        CLOSE,
    ]
    yield h11.Response(status_code=status, reason=status.phrase.encode(), headers=fields)
    yield h11.Data(data=body)
    yield h11.EndOfMessage()


def _plainly(quoted: re.Match[str]) -> str:
    data: bytes = literal_eval(quoted[1])
    return shown(data.decode("latin-1"))
