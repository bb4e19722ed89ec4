"""The client connections of one endpoint: few, small, and none without a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import h11

from proxy.admin.http import Conversation, Request, Response, refusal
from proxy.runtime.tasks import Tasks

MAX_CONNECTIONS: Final = 64
"""Per endpoint: a few scrapers and people, each with a connection kept alive."""

Handler = Callable[[Request], Awaitable[Response]]


class Connections:
    """The protocol factory of an asyncio server: at most `MAX_CONNECTIONS` at a time.

    One more takes the place of that which has made no progress for longest: sent no request, or taken nothing
    of its answer. So neither idle sockets nor clients that never read can shut others out. One whose order is
    being carried out stays; where every one is such, the new one is reset.
    """

    def __init__(
        self, handler: Handler, *, name: str, idle_timeout: float = 10.0, answer_timeout: float = 10.0
    ) -> None:
        """`handler` must not raise.

        `idle_timeout`: seconds for a request to arrive in full, from the connection's start or the last
        answer. `answer_timeout`: seconds for an answer to be made and to be taken by the client. Only that to
        an order may be made for longer, since the daemon is at it in any case.
        """
        self._handler = handler
        self._idle_timeout = idle_timeout
        self._answer_timeout = answer_timeout
        self._tasks = Tasks(name)
        self._open: dict[Conversation, asyncio.Task[None]] = {}
        self._none_open = asyncio.Event()
        self._none_open.set()
        self._waiting: set[Conversation] = set()
        """Those whose next request is not here in full."""
        self._yielding: dict[Conversation, None] = {}
        """Those that may be ended for a new one: that which has made no progress for longest is the first."""
        self._is_closing = False

    def __call__(self) -> asyncio.StreamReaderProtocol:
        """One connection's protocol, as `loop.create_server` asks for it."""
        return asyncio.StreamReaderProtocol(asyncio.StreamReader(), self._connected)

    def __len__(self) -> int:
        return len(self._open)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self) >= MAX_CONNECTIONS and self._yielding:
            longest = next(iter(self._yielding))
            self._open[longest].cancel()
            longest.abort()
            self._forget(longest)
        if len(self) >= MAX_CONNECTIONS or self._is_closing:
            writer.transport.abort()
            return
        client = Conversation(reader, writer)
        self._none_open.clear()
        self._waiting.add(client)
        self._progress(client)
        self._open[client] = self._tasks.spawn(self._serve(client), name="connection")

    def _progress(self, client: Conversation) -> None:
        self._yielding.pop(client, None)
        self._yielding[client] = None

    def _forget(self, client: Conversation) -> None:
        self._waiting.discard(client)
        self._yielding.pop(client, None)
        self._open.pop(client, None)
        if not self._open:
            self._none_open.set()

    async def _serve(self, client: Conversation) -> None:
        try:
            while await self._answer_one(client):
                self._waiting.add(client)
                self._progress(client)
        except OSError:  # the client left, or one of its deadlines passed: TimeoutError is one
            client.abort()
        except asyncio.CancelledError:  # the server closes, or another client has its place
            client.abort()
            raise
        finally:
            await client.close()
            self._forget(client)

    async def _answer_one(self, client: Conversation) -> bool:
        """Whether there may be another."""
        try:
            async with asyncio.timeout(self._idle_timeout):
                request = await client.receive()
        except h11.RemoteProtocolError as error:
            await self._send(client, refusal(error))
            return client.goes_on
        if request is None:
            return False
        self._waiting.discard(client)
        if request.is_safe:
            async with asyncio.timeout(self._answer_timeout):
                await self._send(client, await self._handler(request), head=request.method == "HEAD")
        else:
            self._yielding.pop(client, None)
            answer = await self._handler(request)
            self._progress(client)
            await self._send(client, answer)
        return client.goes_on

    async def _send(self, client: Conversation, answer: Response, *, head: bool = False) -> None:
        async with asyncio.timeout(self._answer_timeout):
            await client.send(answer, head=head, on_progress=lambda: self._progress(client))

    async def close(self, *, grace: float) -> None:
        """Close idle connections at once and busy ones after `grace` seconds; none
        is left when this returns.
        """
        self._is_closing = True
        for client in self._waiting:
            client.abort()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._none_open.wait()
        await self._tasks.close()
