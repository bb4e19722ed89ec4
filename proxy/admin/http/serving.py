"""The clients of one listener: a limited number, and none is left after `close`."""

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

    A new client takes the place of the one that has made no progress for longest, that is, has sent no
    request or taken nothing of its answer. So neither idle clients nor clients that never read keep others
    out. A client whose order is being carried out keeps its place. If all do, the new one is reset.
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
        self._config.load()  # it imports, which the first connection is not to wait for
        self._state = ServerState()
        self._tasks = Tasks(name)
        self._loop = cast("asyncio.AbstractEventLoop", _NamedTasks(self._tasks))
        self._places: set[Connection] = set()
        self._yielding: dict[Connection, None] = {}
        """Those that may have to make room. The first has made no progress for longest."""
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
        """Give it a place, or reset it."""
        self._none_left.clear()
        if len(self) >= MAX_CONNECTIONS and self._yielding:
            longest = next(iter(self._yielding))
            self._leave(longest)
            longest.abort()
        if len(self) >= MAX_CONNECTIONS or self._is_closing:
            client.abort()
        else:
            self._places.add(client)
            self.progressed(client)

    def progressed(self, client: Connection) -> None:
        """It is the last that has to make room."""
        if client in self._places:
            self._yielding.pop(client, None)
            self._yielding[client] = None

    def ordering(self, client: Connection) -> None:
        """It does not have to make room."""
        self._yielding.pop(client, None)

    def ended(self, client: Connection) -> None:
        """Its place is free."""
        self._leave(client)
        if not self._state.connections:
            self._none_left.set()

    def _leave(self, client: Connection) -> None:
        self._places.discard(client)
        self._yielding.pop(client, None)

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
    """What uvicorn's protocol uses of a loop. Each task gets an owner and a name."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks

    def create_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a request."""
        return self._tasks.spawn(work, name="request")

    def call_later(self, delay: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """Start a timer."""
        return asyncio.get_running_loop().call_later(delay, callback)
