"""The proxy entries of the daemon, and how a reload changes them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping

from proxy.config.diff import Change
from proxy.config.model import Config
from proxy.daemon.connections import Shared
from proxy.daemon.served_entry import ServedEntry
from proxy.entries.fd_store import FdStore
from proxy.entries.listener import Listener
from proxy.entries.proxy import OnArrival
from proxy.runtime.endpoint import Local


class Entries(Mapping[str, ServedEntry]):
    """The entries, by name."""

    def __init__(
        self, shared: Shared, store: FdStore, on_arrival: OnArrival, on_change: Callable[[], None]
    ) -> None:
        """`on_arrival` is called with each client that has sent a valid request. `on_change` is called after
        a change that `status` shows.
        """
        self._shared = shared
        self._store = store
        self._on_arrival = on_arrival
        self._on_change = on_change
        self._entries: dict[str, ServedEntry] = {}

    def __getitem__(self, name: str) -> ServedEntry:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    async def add(self, config: Config, names: Collection[str], listeners: Mapping[Local, Listener]) -> None:
        """Start these entries. Each gets the bound listener of its address if `listeners` has it."""
        for name in names:
            self._entries[name] = ServedEntry(
                name,
                config.entries[name],
                self._shared,
                store=self._store,
                on_arrival=self._on_arrival,
                on_change=self._on_change,
                listener=listeners.get(config.entries[name].listen),
            )
        await asyncio.gather(*(self._entries[name].start() for name in names))

    def retire(self, name: str) -> ServedEntry:
        """Remove an entry and return it. The caller must close it."""
        return self._entries.pop(name)

    async def reconfigure(self, config: Config, change: Change) -> None:
        """Use other settings for the entries that stay."""
        stay = (*change.kept, *change.renewed)
        await asyncio.gather(*(self._entries[name].reconfigure(config.entries[name]) for name in stay))

    def stop_accepting(self) -> None:
        """Stop accepting clients. systemd keeps the sockets for the next process."""
        for entry in self._entries.values():
            entry.listener.stop_accepting()

    async def finish_requests(self, timeout: float) -> None:  # noqa: ASYNC109 - a budget, not a failure
        """Wait up to `timeout` seconds until each client has a destination. Then disconnect the others."""
        await asyncio.gather(*(one.entry.finish_requests(timeout) for one in self._entries.values()))

    async def close(self) -> None:
        """Close every entry."""
        await asyncio.gather(*(entry.close() for entry in self._entries.values()))
