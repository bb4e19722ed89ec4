"""Clients that send requests over TLS again and again (short ones, a watch, checksummed bulk in each
direction), and classify whatever they see instead of the right answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections import Counter
from enum import StrEnum
from itertools import count
from typing import Final

from tests.faults.api import BULK
from tests.faults.doors import Answered, Door, Unread
from tests.support.echo import pattern
from tests.support.serving import closed

PACE_S: Final = 0.02
"""Seconds between two requests of a client, and before it connects again."""
CONNECT_S: Final = 40.0
"""Seconds for a connect with its TLS handshake: more than `hold_timeout`, and than a machine stops.

A client that gives up too early may do so before the kernel has made the connection. Then it would count one
more than the daemon.
"""
BULK_PACE_S: Final = 0.1
"""The same for bulk clients: longer, to leave two cores some time for everything else."""

_UPLOAD: Final = pattern(BULK, seed=2)
_HOST: Final = b" HTTP/1.1\r\nHost: kubernetes\r\n"


class Saw(StrEnum):
    """What can happen to a client's request."""

    RESET = "reset"
    CUT = "cut short"
    """The stream ended in the middle of an answer: sshd passes an API server's reset on as an EOF."""
    REFUSED = "refused"
    TIMEOUT = "timeout"
    ANSWER = "an answer why"
    """The entry refused: the client asked for the cluster by name, and got a status line with the reason."""
    WRONG = "wrong bytes"


class Wrong(Exception):
    """The client received bytes that the API server never sent."""


def classify(exc: Exception) -> Saw:
    """The kind of this exception. What is not the end of a connection is `WRONG`."""
    match exc:
        case ConnectionRefusedError():
            return Saw.REFUSED
        case Answered():
            return Saw.ANSWER
        case TimeoutError():
            return Saw.TIMEOUT
        case EOFError() | ssl.SSLEOFError():
            return Saw.CUT
        case OSError() if not isinstance(exc, ssl.SSLError):
            return Saw.RESET
        case _:  # a TLS record that does not hold is a wrong byte, too
            return Saw.WRONG


class Client:
    """Sends requests over one connection again and again, and connects again when the connection has ended.

    `run` does not end by itself.
    """

    pace = PACE_S

    def __init__(
        self,
        name: str,
        door: Door,
        context: ssl.SSLContext,
        patience: float,
    ) -> None:
        self.name = name
        self._door = door
        self.seen: Counter[Saw] = Counter()
        self.served = 0
        self.connected = 0
        """How many TCP connections the kernel made for this client."""
        self.first: float | None = None
        """When the client was first served since `expect` or since its last failure, by the loop's clock."""
        self._context = context
        self._patience = patience
        self._is_leaving = False

    def __repr__(self) -> str:
        return f"<{self.name} served={self.served} connected={self.connected} saw {dict(self.seen)}>"

    def be_patient(self, seconds: float) -> None:
        """Give up a request after that many seconds, from the next request on. A connect has its own time."""
        self._patience = seconds

    def expect(self) -> None:
        """Clear `first`; the next request that is served sets it again."""
        self.first = None

    def leave(self) -> None:
        """End `run` after the current request."""
        self._is_leaving = True

    async def run(self) -> None:
        while not self._is_leaving:
            try:
                await self._connection()
            except (OSError, EOFError, Wrong, Answered, Unread) as exc:
                self.seen[classify(exc)] += 1
                self.first = None
            await asyncio.sleep(PACE_S)

    async def _connection(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_S):
                reader, writer = await self._door.connect(self._context)
        except ConnectionRefusedError:
            raise
        # In or before the TLS handshake: the daemon has accepted the connection.
        except (OSError, EOFError, Answered, Unread):
            self.connected += 1
            raise
        self.connected += 1
        try:
            await self._session(reader, writer)
        finally:
            await closed(writer)

    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not self._is_leaving:
            async with asyncio.timeout(self._patience):
                await self._ask(reader, writer)
            self._was_served()
            await asyncio.sleep(self.pace)

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET /healthz" + _HOST + b"\r\n")
        self._expect(await _body(reader), b"ok")

    def _was_served(self) -> None:
        self.served += 1
        if self.first is None:
            self.first = asyncio.get_running_loop().time()

    def _expect(self, got: bytes, wanted: bytes) -> None:
        if got != wanted:
            raise Wrong(f"{self.name}: {len(got)} bytes that are not the {len(wanted)} expected")


class Download(Client):
    """Downloads, and compares every byte."""

    pace = BULK_PACE_S

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET /download" + _HOST + b"\r\n")
        self._expect(await _body(reader), pattern(BULK))


class Upload(Client):
    """Uploads, and compares the server's checksum."""

    pace = BULK_PACE_S

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"POST /upload" + _HOST + b"Content-Length: %d\r\n\r\n" % BULK)
        writer.write(_UPLOAD)
        await writer.drain()
        self._expect(await _body(reader), hashlib.sha256(_UPLOAD).hexdigest().encode())


class Watch(Client):
    """Reads one response without end; the events must come in order, without a gap."""

    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(self._patience):
            writer.write(b"GET /watch" + _HOST + b"\r\n")
            await reader.readuntil(b"\r\n\r\n")
        for number in count():
            async with asyncio.timeout(self._patience):
                size = int(await reader.readuntil(b"\r\n"), 16)
                event = await reader.readexactly(size + 2)
            self._expect(event, b"%d\n\r\n" % number)
            self._was_served()
            if self._is_leaving:
                return


async def _body(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise Wrong(f"an answer that begins {head[:40]!r}")
    return await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split()[0]))
