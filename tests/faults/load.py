"""The load of one cluster: several clients, and what they saw."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final, Self

from proxy.runtime.tasks import Tasks
from tests.faults.client import Client, Download, Saw, Upload, Watch
from tests.faults.doors import Door
from tests.support.tls import Certificates

LEAVE_S: Final = 60.0
"""Seconds that current requests may take when a load ends."""


class Load:
    """`async with Load(...)`: clients of one cluster until the block ends. `light`: without bulk clients."""

    def __init__(
        self,
        name: str,
        door: Door,
        certificates: Certificates,
        *,
        patience: float,
        light: bool = False,
    ) -> None:
        self.name = name
        context = ssl.create_default_context(cafile=certificates.ca)
        kinds: Iterable[type[Client]] = (
            (Client, Watch) if light else (Client, Client, Client, Watch, Download, Upload)
        )
        self.clients = [
            kind(f"{kind.__name__.lower()} {n} of {name}", door, context, patience)
            for n, kind in enumerate(kinds)
        ]
        self._tasks = Tasks(name)
        self._running: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._running = [self._tasks.spawn(client.run(), name=client.name) for client in self.clients]
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self.clients:
            client.leave()
        # Not cancelled: a client that is just connecting could not know whether the daemon counted it.
        with suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                await asyncio.gather(*self._running)
        await self._tasks.close()

    @property
    def seen(self) -> Counter[Saw]:
        """What all clients saw instead of an answer, by kind."""
        return sum((client.seen for client in self.clients), Counter())

    @property
    def served(self) -> int:
        """How many requests were answered and how many events arrived, in all."""
        return sum(client.served for client in self.clients)

    @property
    def connected(self) -> int:
        """How many TCP connections the clients made."""
        return sum(client.connected for client in self.clients)

    @property
    def is_unbroken(self) -> bool:
        """Whether every client still has its first connection and got only answers."""
        return not self.seen and self.connected == len(self.clients)

    async def wait_served(self, *, times: int = 1, seconds: float = 60.0) -> None:
        """Wait until each client was served that many times more. Raises AssertionError."""
        goals = {client: client.served + times for client in self.clients}
        await eventually(
            lambda: f"{self.name} is served: {self.clients}",
            lambda: all(client.served >= goal for client, goal in goals.items()),
            seconds=seconds,
        )

    async def wait_seen(self, kinds: frozenset[Saw], *, seconds: float = 60.0) -> None:
        """Wait until each client has seen one of these since the load began. Raises AssertionError."""
        await eventually(
            lambda: f"each client of {self.name} sees one of {sorted(kinds)}: {self.clients}",
            lambda: all(kinds & client.seen.keys() for client in self.clients),
            seconds=seconds,
        )

    async def wait_back(self, since: float, *, seconds: float) -> float:
        """Wait until each client is served again after `expect`.

        Returns the seconds from `since` until the first interrupted client was served, 0.0 if none was
        interrupted. Raises AssertionError.
        """
        await eventually(
            lambda: f"{self.name} recovers: {self.clients}",
            lambda: all(client.first is not None for client in self.clients),
            seconds=seconds,
        )
        firsts = (client.first for client in self.clients if client.first is not None and client.seen)
        return max(0.0, min(firsts, default=since) - since)

    def be_patient(self, seconds: float) -> None:
        """See `Client.be_patient`."""
        for client in self.clients:
            client.be_patient(seconds)

    def expect(self) -> None:
        """See `Client.expect`."""
        for client in self.clients:
            client.expect()


async def eventually(
    what: Callable[[], str], condition: Callable[[], bool], *, seconds: float = 60.0
) -> None:
    """Check `condition` again and again until it holds. Raises AssertionError with `what()` if it
    does not.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not condition():
        if loop.time() > deadline:
            raise AssertionError(f"not within {seconds} s: {what()}")
        await asyncio.sleep(0.005)
