"""How clients connect: to a cluster's port, or by name, as clients of a proxy and kube-apiserver do."""

from __future__ import annotations

import asyncio
import ssl
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.serving import closed, send

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

NAME: Final = "kubernetes"
"""Whose certificate the servers show."""


class Answered(Exception):
    """The entry answered CONNECT with this status line instead of a connection."""


class Unread(Exception):
    """The entry answered CONNECT with something that a client cannot read."""


class Port:
    """A cluster's own port."""

    def __init__(self, number: int) -> None:
        self._number = number

    async def connect(self, context: ssl.SSLContext) -> Streams:
        """Raises OSError, EOFError; ConnectionRefusedError if the daemon did not have the connection."""
        return await asyncio.open_connection("127.0.0.1", self._number, ssl=context, server_hostname=NAME)


class Entry(ABC):
    """An entry that clients ask by CONNECT."""

    @abstractmethod
    async def ask(self) -> Streams:
        """Send the request, and do not wait for the answer."""

    async def accepted(self, reader: asyncio.StreamReader) -> None:
        """Wait for the answer. Raises Answered if it is a refusal, Unread, OSError, EOFError."""
        head = b""
        while b"\r\n\r\n" not in head:
            if not (data := await reader.read(1 << 16)):
                raise EOFError(f"no answer but {head!r}")
            head += data
        # A byte more would be lost: kube-apiserver gives up then.
        if head != b"HTTP/1.1 200 Connection established\r\n\r\n":
            self._refused(head)

    def _refused(self, head: bytes) -> None:
        line = head.partition(b"\r\n")[0].decode()
        if not line.startswith(("HTTP/1.1 4", "HTTP/1.1 5")) or " kubemux: " not in line:
            raise Unread(f"{head[:200]!r}")
        raise Answered(line)

    async def connect(self, context: ssl.SSLContext) -> Streams:
        """Raises the same as `Port.connect`, and Answered and Unread."""
        reader, writer = await self.ask()
        try:
            await self.accepted(reader)
            await writer.start_tls(context, server_hostname=NAME)
        except BaseException:
            await closed(writer)
            raise
        return reader, writer


@dataclass(frozen=True, slots=True)
class Proxy(Entry):
    """A proxy entry, asked for a cluster."""

    port: int
    cluster: str

    async def ask(self) -> Streams:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        send(writer, f"CONNECT {self.cluster}:443 HTTP/1.1\r\n\r\n".encode())
        return reader, writer


@dataclass(frozen=True, slots=True)
class Egress(Entry):
    """An entry on a unix socket, asked for a node as kube-apiserver does, byte by byte."""

    socket: Path
    node: str

    async def ask(self) -> Streams:
        reader, writer = await asyncio.open_unix_connection(self.socket)
        send(writer, f"CONNECT {self.node}:10250 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        return reader, writer


Door = Port | Entry
