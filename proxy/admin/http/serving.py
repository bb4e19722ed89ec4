"""Accepts the clients of one listener, in a limited number; `close` ends them all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, cast

from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.server import ServerState

from proxy.admin.http.connection import Connection, Deadlines
from proxy.runtime.tasks import Tasks

MAX_CONNECTIONS: Final = 64
"""Per listener: a few scrapers and people, each with a connection kept alive."""


class Serving:
    """The protocol factory of an asyncio server, for at most `MAX_CONNECTIONS` clients.

    If there are that many, the one that has made no progress for longest is closed for a new one: it has sent
    no request, or has not read its answer. So neither idle clients nor clients that never read can keep
    others out. A client whose order is being carried out is never closed for another one. If all have orders,
    the new client is reset.
    """

    def __init__(self, app: ASGIApp, *, name: str, deadlines: Deadlines | None = None) -> None:
        self._app = app
        self._deadlines = deadlines or Deadlines()
        self._config = Config(
            app,
            http=Connection,
            loop="none",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            forwarded_allow_ips="",  # given, as the next one: otherwise they come from the environment
            workers=1,
        )
        self._config.load()  # imports modules now, so that the first connection does not wait for that
        self._state = ServerState()
        self._tasks = Tasks(name)
        self._loop = cast("asyncio.AbstractEventLoop", _NamedTasks(self._tasks))
        self._places: set[Connection] = set()
        self._evictable: dict[Connection, None] = {}
        """The clients that may be closed for a new one. The first has made no progress for longest."""
        self._none_left = asyncio.Event()
        self._none_left.set()
        self._is_closing = False

    def __call__(self) -> Connection:
        """The protocol of a new connection, as `loop.create_server` wants it."""
        return Connection(self._app, self._config, self._state, self, self._deadlines, self._loop)

    def __len__(self) -> int:
        return len(self._places)

    # --------------------------------------------------------------------------- what a connection reports

    def opened(self, client: Connection) -> None:
        """Accept the client, closing another one if there are too many, or reset it."""
        self._none_left.clear()
        if len(self) >= MAX_CONNECTIONS and self._evictable:
            longest = next(iter(self._evictable))
            self._leave(longest)
            longest.abort()
        if len(self) >= MAX_CONNECTIONS or self._is_closing:
            client.abort()
        else:
            self._places.add(client)
            self.progressed(client)

    def progressed(self, client: Connection) -> None:
        """Make it the last one to be closed for a new client."""
        if client in self._places:
            self._evictable.pop(client, None)
            self._evictable[client] = None

    def ordering(self, client: Connection) -> None:
        """Do not close it for a new client until it has progressed."""
        self._evictable.pop(client, None)

    def ended(self, client: Connection) -> None:
        """Free its place."""
        self._leave(client)
        if not self._state.connections:
            self._none_left.set()

    def _leave(self, client: Connection) -> None:
        self._places.discard(client)
        self._evictable.pop(client, None)

    # ------------------------------------------------------------------------------------------------------

    async def close(self, *, grace: float) -> None:
        """Close idle connections at once, and busy ones and streams after `grace` seconds.

        When this returns, no connection and no task is left.
        """
        self._is_closing = True
        for client in self._clients():
            client.finish()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._tasks.wait()
                await self._none_left.wait()
        for client in self._clients():
            client.abort()
        await self._tasks.close()
        await self._none_left.wait()

    def _clients(self) -> list[Connection]:
        return [client for client in self._state.connections if isinstance(client, Connection)]


class _NamedTasks:
    """The two methods of a loop that uvicorn's protocol calls. Each task gets an owner and a name."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks

    def create_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a request."""
        return self._tasks.spawn(work, name="request")

    def call_later(self, delay: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """Start a timer."""
        return asyncio.get_running_loop().call_later(delay, callback)
