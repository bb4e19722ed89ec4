"""The gateways, clusters, routes and entries that a reload has removed or replaced, until they have ended."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import suppress

from proxy.daemon.connections import HALF_CLOSE_S, Connections
from proxy.runtime.tasks import Tasks


class Retiring:
    """Drains the removed parts. Iteration yields the connections of removed destinations."""

    def __init__(self) -> None:
        self._tasks = Tasks("retiring")
        self._connections: set[Connections] = set()

    def __repr__(self) -> str:
        return f"<Retiring {self._tasks}>"

    def __iter__(self) -> Iterator[Connections]:
        return iter(self._connections)

    def add(
        self, drain: Coroutine[object, object, object], name: str, *, of: Connections | None = None
    ) -> None:
        """Run `drain` of a removed part. `of` are its connections if it is a destination."""
        task = self._tasks.spawn(drain, name=name)
        if of is not None:
            self._connections.add(of)
            task.add_done_callback(lambda _: self._connections.discard(of))

    async def wait(self, budget: float) -> None:
        """Wait up to `budget` seconds until all have ended."""
        # Each has its own drain_timeout, which may be longer: that of an earlier configuration.
        with suppress(TimeoutError):
            async with asyncio.timeout(budget + HALF_CLOSE_S):
                await self._tasks.wait()

    async def close(self) -> None:
        """End everything at once."""
        await self._tasks.close()
