"""A scripted API server: tests set an attribute to choose what it does with a request."""

from __future__ import annotations

import asyncio
import ssl
from enum import Enum, auto

from tests.support.serving import Server, reset
from tests.support.tls import Certificates, Issued


class Answer(Enum):
    """How the server answers a request."""

    OK = auto()
    FORBIDDEN = auto()
    UNHEALTHY = auto()
    SILENCE = auto()
    """Never answer."""
    RESET = auto()
    TRICKLE = auto()
    """One byte per second."""


_BODIES = {
    Answer.OK: b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    Answer.TRICKLE: b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    Answer.FORBIDDEN: b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
    Answer.UNHEALTHY: b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
}


class Https(Server):
    """Answers every request on a connection with `answer`. TCP connections are refused after `refuse`."""

    def __init__(self, certificates: Certificates, *, certificate: Issued | None = None) -> None:
        issued = certificate or certificates.server
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(issued.cert, issued.key)
        super().__init__(tls=context)
        self.answer = Answer.OK
        self.requests: list[str] = []
        """The request lines that the server received, oldest first."""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            self.requests.append(line.decode("ascii", "replace").strip())
            while (await reader.readline()).strip():
                pass
            match self.answer:
                case Answer.SILENCE:
                    await reader.read()
                case Answer.RESET:
                    reset(writer)
                    return
                case Answer.TRICKLE:
                    for byte in _BODIES[Answer.TRICKLE]:
                        writer.write(bytes([byte]))
                        await asyncio.sleep(1)
                case answer:
                    writer.write(_BODIES[answer])
                    await writer.drain()
