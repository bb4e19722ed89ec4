"""Plain TCP servers with checksums, to test that a tunnel changes no byte."""

from __future__ import annotations

import asyncio
import hashlib
import random
from functools import lru_cache

from proxy.runtime.endpoint import Endpoint
from tests.support.serving import Server, closed, send

CHUNK = 64 << 10


@lru_cache(maxsize=4)
def pattern(size: int, seed: int = 0) -> bytes:
    """`size` bytes that look random and are the same for the same seed: lost, doubled and swapped bytes all
    show.
    """
    return random.Random(seed).randbytes(size)  # noqa: S311 - reproducible, not secret


class Echo(Server):
    """Sends back what it receives; ends its side when the client has ended its own."""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


class Sink(Server):
    """Reads until EOF, then answers with the SHA-256 of all bytes, in hex: half-close must work."""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        digest = hashlib.sha256()
        while data := await reader.read(CHUNK):
            digest.update(data)
        writer.write(digest.hexdigest().encode())
        await writer.drain()


class Source(Server):
    """Reads a number and a newline, sends `pattern` of that size, and ends."""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = await reader.readline()
        if not size.strip().isdigit():  # a probe's TLS hello
            return
        data = memoryview(pattern(int(size)))
        for start in range(0, len(data), CHUNK):
            writer.write(data[start : start + CHUNK])
            await writer.drain()
        writer.write_eof()
        await reader.read()


async def exchange(endpoint: Endpoint, data: bytes, *, seconds: float = 60.0) -> bytes:
    """Send `data` and EOF, return everything that comes back until the peer's EOF.

    Raises OSError, TimeoutError.
    """
    async with asyncio.timeout(seconds):
        reader, writer = await asyncio.open_connection(*endpoint)

        async def say() -> None:
            send(writer, data)
            await writer.drain()
            if not writer.is_closing():
                writer.write_eof()

        try:
            return (await asyncio.gather(reader.read(), say()))[0]
        finally:
            await closed(writer)
