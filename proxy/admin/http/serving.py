"""The clients of one listener: few, small, and all gone when it is closed."""

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
    """The protocol factory of an asyncio server: at most `MAX_CONNECTIONS` at a time.

    One more takes the place of that which has made no progress for longest: sent no request, or taken nothing
    of its answer. So neither idle sockets nor clients that never read can shut others out. One whose order is
    being carried out stays; where every one is such, the new one is reset.
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
            forwarded_allow_ips="",  # neither this nor the next from the environment
            workers=1,
        )
        self._state = ServerState()
        self._tasks = Tasks(name)
        self._loop = cast("asyncio.AbstractEventLoop", _NamedTasks(self._tasks))
        self._places: set[Connection] = set()
        self._yielding: dict[Connection, None] = {}
        """Those that may be ended for a new one: that which has made no progress for longest is the first."""
        self._none_left = asyncio.Event()
        self._none_left.set()
        self._is_closing = False

    def __call__(self) -> Connection:
        """One connection's protocol, as `loop.create_server` asks for it."""
        return Connection(self._app, self._config, self._state, self, self._deadlines, self._loop)

    def __len__(self) -> int:
        return len(self._places)

    # ---------------------------------------------------------------------------- what a connection says

    def made(self, client: Connection) -> None:
        """Give it a place, or end it."""
        self._none_left.clear()
        if len(self) >= MAX_CONNECTIONS and self._yielding:
            longest = next(iter(self._yielding))
            self._leave(longest)
            longest.abort()
        if len(self) >= MAX_CONNECTIONS or self._is_closing:
            client.abort()
        else:
            self._places.add(client)
            self.moved(client)

    def moved(self, client: Connection) -> None:
        """It is the last to be ended."""
        if client in self._places:
            self._yielding.pop(client, None)
            self._yielding[client] = None

    def ordered(self, client: Connection) -> None:
        """It is not ended."""
        self._yielding.pop(client, None)

    def over(self, client: Connection) -> None:
        """Its place is free."""
        self._leave(client)
        if not self._state.connections:
            self._none_left.set()

    def _leave(self, client: Connection) -> None:
        self._places.discard(client)
        self._yielding.pop(client, None)

    # ------------------------------------------------------------------------------------------------------

    async def close(self, *, grace: float) -> None:
        """Close idle connections at once and busy ones, streams as well, after `grace` seconds; no connection
        and no task is left when this returns.
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
    """As much of a loop as uvicorn's protocol uses. Its tasks have an owner and a name."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks

    def create_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a request."""
        return self._tasks.spawn(work, name="request")

    def call_later(self, delay: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """Start a timer."""
        return asyncio.get_running_loop().call_later(delay, callback)
