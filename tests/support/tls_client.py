"""A TLS client that can end one direction and keep the other, which asyncio's cannot."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress


class TlsClient:
    """TLS over `sock`, which is connected. The server's certificate must be valid for `host`."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, host: str) -> None:
        self.sock = sock
        sock.setblocking(False)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._loop = asyncio.get_running_loop()

    async def shake_hands(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._receive()
            else:
                return await self._flush()

    async def send(self, data: bytes) -> None:
        for at in range(0, len(data), 1 << 18):
            self._tls.write(data[at : at + (1 << 18)])
            await self._flush()

    async def read(self, size: int = -1) -> bytes:
        """Read that many bytes, by default all until close_notify. Raises ConnectionResetError if the
        connection ends without a close_notify.
        """
        found = bytearray()
        while len(found) != size:
            try:
                data = self._tls.read(1 << 16 if size < 0 else size - len(found))
            except ssl.SSLWantReadError:
                await self._receive()
                continue
            except ssl.SSLZeroReturnError:
                data = b""
            if not data:
                break
            found += data
        return bytes(found)

    async def end(self) -> None:
        """Send a close_notify."""
        with suppress(ssl.SSLWantReadError):
            self._tls.unwrap()
        await self._flush()

    async def _flush(self) -> None:
        if data := self._outgoing.read():
            await self._loop.sock_sendall(self.sock, data)

    async def _receive(self) -> None:
        data = await self._loop.sock_recv(self.sock, 1 << 16)
        if not data:
            raise ConnectionResetError("cut without a close_notify")
        self._incoming.write(data)
