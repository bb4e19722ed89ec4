"""A stand-in for an API server that a load talks to: short answers, a watch, checksummed bulk in each
direction. It can misbehave.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from itertools import count
from typing import Final

from tests.support.echo import CHUNK, pattern
from tests.support.https import Answer
from tests.support.serving import Server, reset
from tests.support.tls import Certificates

BULK: Final = 128 << 10
"""Bytes of one download or upload: several packets of TLS and SSH. Four clients transfer them during a whole
row, so with more bytes most of a row's CPU would go into them.
"""

TICK_S: Final = 0.03

_HEAD: Final = b"HTTP/1.1 200 OK\r\n"


class Api(Server):
    """Answers `GET /watch` with events without end, `GET /download` with `pattern(BULK)`, `POST /upload` with
    the body's SHA-256, and everything else with `ok`.

    `answer` says how: normally, or with `SILENCE` (never), `RESET` (in the middle), `TRICKLE` (a byte per
    second).
    """

    def __init__(self, certificates: Certificates) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates.server.cert, certificates.server.key)
        super().__init__(tls=context)
        self.answer = Answer.OK

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            path, length = line.split()[1], 0
            while header := (await reader.readline()).strip():
                name, _, value = header.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            match path:
                case b"/watch":
                    await self._watch(reader, writer)
                case b"/download":
                    await self._answer(reader, writer, pattern(BULK))
                case b"/upload":
                    digest = hashlib.sha256()
                    while length:
                        data = await reader.read(min(length, CHUNK))
                        if not data:
                            return
                        digest.update(data)
                        length -= len(data)
                    await self._answer(reader, writer, digest.hexdigest().encode())
                case _:
                    await self._answer(reader, writer, b"ok")

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes) -> None:
        head = b"%sContent-Length: %d\r\n\r\n" % (_HEAD, len(body))
        await self._send(reader, writer, head + body)

    async def _watch(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._send(reader, writer, _HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        for number in count():
            event = b"%d\n" % number
            await self._send(reader, writer, b"%x\r\n%s\r\n" % (len(event), event))
            await asyncio.sleep(TICK_S)

    async def _send(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> None:
        match self.answer:
            case Answer.SILENCE:
                await reader.read()
                raise ConnectionAbortedError("the client has left")
            case Answer.RESET:
                writer.write(data[: len(data) // 2])
                await writer.drain()
                reset(writer)
                raise ConnectionResetError("as it was told")
            case Answer.TRICKLE:
                for at in range(len(data)):
                    writer.write(data[at : at + 1])
                    await writer.drain()
                    await asyncio.sleep(1)
            case _:
                for at in range(0, len(data), CHUNK):
                    writer.write(data[at : at + CHUNK])
                    await writer.drain()
