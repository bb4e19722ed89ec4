"""A TCP server in the test's own loop that closes all its connections at the end."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from contextlib import suppress
from typing import Self

from proxy.runtime.endpoint import Endpoint
from tests.support.ports import free_port

CLOSE_SECONDS = 5.0
BACKLOG = 1000
"""Clients that wait until they are accepted. If there are more, Linux resets some that have sent already."""


def reset(writer: asyncio.StreamWriter) -> None:
    """Reset the connection, as a crashed peer or a firewall does."""
    # SO_LINGER with a timeout of 0 (socket(7)) makes close() drop what is queued and reset.
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def send(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Write, unless the peer has reset the connection. Then the next read raises ConnectionResetError."""
    if not writer.is_closing():  # otherwise uvloop raises RuntimeError
        writer.write(data)


async def closed(writer: asyncio.StreamWriter) -> None:
    """Close, and wait until the socket is closed."""
    writer.transport.abort()
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(CLOSE_SECONDS):
            await writer.wait_closed()


class Server:
    """`async with Server() as server: server.endpoint`. A subclass serves a connection in `handle`.

    When `handle` returns or raises OSError, the connection is closed. `accepted` counts connections.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._port = 0
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self.accepted = 0
        self._arrival = asyncio.Event()

    @property
    def endpoint(self) -> Endpoint:
        """The address that it listens on."""
        return Endpoint("127.0.0.1", self._port)

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return len(self._open)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.refuse()
        await self.disconnect()

    async def listen(self) -> None:
        """Accept connections; after `refuse`, on the same port as before."""
        self._port = self._port or free_port()
        self._server = await asyncio.start_server(
            self._accept, "127.0.0.1", self._port, ssl=self._tls, backlog=BACKLOG
        )

    async def refuse(self) -> None:
        """Stop listening: the kernel answers new connections with RST. Open ones go on."""
        if self._server:
            self._server.close()
            self._server = None
            await asyncio.sleep(0)  # uvloop closes the listening socket in its next turn

    async def disconnect(self, *, hard: bool = False) -> None:
        """End all connections at once; `hard` with RST."""
        tasks = list(self._open)
        for task, writer in list(self._open.items()):
            if hard:
                reset(writer)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def wait_accepted(self, count: int, *, seconds: float = 30.0) -> None:
        """Wait until that many connections were accepted in all. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while self.accepted < count:
                self._arrival.clear()
                await self._arrival.wait()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # asyncio calls this one or two turns of the loop after the kernel accepted the connection, so
        # `refuse` and `disconnect` may have been called before.
        if not self._server:
            writer.transport.abort()
            return
        # Not a coroutine: asyncio's own task for it would report CancelledError to the loop as a failure if
        # it is cancelled before its first turn (cpython#113538, fixed in 3.11.8 and 3.12.2).
        task = asyncio.get_running_loop().create_task(
            self._serve(reader, writer), name=f"serve {self.accepted}"
        )
        self._open[task] = writer
        self.accepted += 1
        self._arrival.set()
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        # A task that was cancelled before its first turn never ran its `finally`.
        self._open.pop(task).transport.abort()
        if not task.cancelled() and (error := task.exception()):
            context = {"message": f"{type(self).__name__} failed", "exception": error, "task": task}
            task.get_loop().call_exception_handler(context)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self.handle(reader, writer)
            if not writer.is_closing():
                # close() after abort() breaks asyncio's TLS transport before Python 3.11.3
                writer.close()
            await writer.wait_closed()
        except (OSError, asyncio.CancelledError):
            pass  # the client left or `disconnect` was called: both are normal ends
        except RuntimeError:
            if not writer.is_closing():
                raise
            # The client has reset the connection, and uvloop raises this for a write after that.
        finally:
            await closed(writer)
