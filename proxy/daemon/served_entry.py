"""An entry with its listener, and what `status` shows of them."""

from __future__ import annotations

from collections.abc import Callable

from proxy.config.listen import Permissions
from proxy.config.model import EntryConfig
from proxy.daemon.connections import Shared
from proxy.entries.fd_store import FdStore
from proxy.entries.keeping import KeptListener
from proxy.entries.listener import Listener
from proxy.entries.proxy import OnArrival, ProxyEntry
from proxy.snapshots import EntrySnapshot


class ServedEntry:
    """One of the daemon's entries. It calls `on_change` when something has changed that `status` shows."""

    def __init__(
        self,
        name: str,
        config: EntryConfig,
        shared: Shared,
        *,
        store: FdStore,
        on_arrival: OnArrival,
        on_change: Callable[[], None],
        listener: Listener | None = None,
    ) -> None:
        """`listener`: see `KeptListener`."""
        self.name = name
        self.config = config
        self.entry = ProxyEntry(name, shared.metrics.entry(name), on_arrival)
        self.listener = KeptListener(
            config.listen,
            lambda sock, caller: self.entry.accept(sock, shared.access.identified(sock, caller)),
            store,
            owner={"entry": name},
            permissions=Permissions.of(config.mode, config.group),
            on_change=on_change,
            listener=listener,
        )

    def __repr__(self) -> str:
        return f"<ServedEntry {self.entry} {self.listener}>"

    async def start(self) -> None:
        """Accept clients. If the address is not free, try to bind it until it is."""
        await self.listener.start()

    def reconfigure(self, config: EntryConfig) -> None:
        """Use other settings for the same address."""
        self.config = config
        self.listener.let_in(Permissions.of(config.mode, config.group))

    async def close(self) -> None:
        """End the clients that have no destination yet. The listener is closed before, or somebody else's."""
        await self.listener.close()
        await self.entry.close()

    def snapshot(self) -> EntrySnapshot:
        error = self.listener.error
        record = self.entry.record
        return EntrySnapshot(
            name=self.name,
            listen=str(self.config.listen),
            listening=self.listener.is_bound,
            reason=error.reason if error else "",
            message=str(error) if error else "",
            hint=error.hint if error else "",
            connections=record.active,
            connections_total=record.opened,
        )
