"""The client connections of one endpoint: few, small, and none without a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import h11

from proxy.admin.http import Conversation, Request, Response, refusal
from proxy.tasks import Tasks

MAX_CONNECTIONS: Final = 64
"""Per endpoint: a few scrapers and people, each with a connection kept alive."""

Handler = Callable[[Request], Awaitable[Response]]


class Connections:
    """The protocol factory of an asyncio server: at most `MAX_CONNECTIONS` at a time.

    One more takes the place of that which has been waiting for a request for longest: idle sockets cannot shut others out.
    Where every one is being answered, the new one is reset.
    """

    def __init__(self, handler: Handler, *, name: str, idle_timeout: float = 10.0, write_timeout: float = 10.0) -> None:
        """`handler` must not raise.

        `idle_timeout`: seconds for a request to arrive in full, from the connection's start or the last answer.
        `write_timeout`: seconds for the client to take an answer.
        """
        self._handler = handler
        self._idle_timeout = idle_timeout
        self._write_timeout = write_timeout
        self._tasks = Tasks(name)
        self._open: set[Conversation] = set()
        self._none_open = asyncio.Event()
        self._none_open.set()
        self._waiting: dict[Conversation, None] = {}
        """Those whose next request is not here in full: the longest wait first."""
        self._is_closing = False

    def __call__(self) -> asyncio.StreamReaderProtocol:
        """One connection's protocol, as `loop.create_server` asks for it."""
        return asyncio.StreamReaderProtocol(asyncio.StreamReader(), self._connected)

    def __len__(self) -> int:
        return len(self._open)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self) >= MAX_CONNECTIONS and self._waiting:
            self._forget(longest := next(iter(self._waiting)))
            longest.abort()
        if len(self) >= MAX_CONNECTIONS or self._is_closing:
            writer.transport.abort()
            return
        client = Conversation(reader, writer)
        self._open.add(client)
        self._none_open.clear()
        self._waiting[client] = None
        self._tasks.spawn(self._serve(client), name="connection")

    def _forget(self, client: Conversation) -> None:
        self._waiting.pop(client, None)
        self._open.discard(client)
        if not self._open:
            self._none_open.set()

    async def _serve(self, client: Conversation) -> None:
        try:
            while await self._answer_one(client):
                self._waiting[client] = None
        except OSError:  # the client left, or one of its deadlines passed: TimeoutError is one
            client.abort()
        finally:
            await client.close()
            self._forget(client)

    async def _answer_one(self, client: Conversation) -> bool:
        """Whether there may be another."""
        try:
            async with asyncio.timeout(self._idle_timeout):
                request = await client.receive()
        except h11.RemoteProtocolError as error:
            request, answer = None, refusal(error)
        else:
            if request is None:
                return False
            self._waiting.pop(client, None)
            answer = await self._handler(request)
        async with asyncio.timeout(self._write_timeout):
            await client.send(answer, head=request is not None and request.method == "HEAD")
        return client.goes_on

    async def close(self, *, grace: float) -> None:
        """Close idle connections at once and busy ones after `grace` seconds; none is left when this returns."""
        self._is_closing = True
        for client in self._waiting:
            client.abort()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._none_open.wait()
        await self._tasks.close()
