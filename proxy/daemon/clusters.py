"""The clusters of the daemon, and how a reload changes them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from proxy.config.diff import Change
from proxy.config.model import Config
from proxy.daemon.connections import Shared
from proxy.daemon.served import ServedCluster
from proxy.daemon.ways import Ways
from proxy.entries.fd_store import FdStore
from proxy.entries.listener import Listener
from proxy.health.tls import Contexts
from proxy.runtime.endpoint import Local


class Clusters(Mapping[str, ServedCluster]):
    """The clusters, by name."""

    def __init__(
        self, shared: Shared, ways: Ways, contexts: Contexts, store: FdStore, on_change: Callable[[], None]
    ) -> None:
        """`on_change` is called after a change that `status` shows."""
        self._shared = shared
        self._ways = ways
        self._contexts = contexts
        self._store = store
        self._on_change = on_change
        self._clusters: dict[str, ServedCluster] = {}
        self._by_way: dict[str, list[ServedCluster]] | None = None
        """By gateway or site, made when it is needed: a thousand sites may come back at once."""

    def __getitem__(self, name: str) -> ServedCluster:
        return self._clusters[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._clusters)

    def __len__(self) -> int:
        return len(self._clusters)

    async def add(self, config: Config, names: Collection[str], listeners: Mapping[Local, Listener]) -> None:
        """Start these clusters. Each gets the bound listener of its address if `listeners` has it."""
        self._by_way = None
        for name in names:
            one = config.clusters[name]
            self._clusters[name] = ServedCluster(
                name,
                one,
                self._ways.of(one),
                self._shared,
                store=self._store,
                contexts=self._contexts,
                on_change=self._on_change,
                listener=listeners.get(one.listen) if one.listen else None,
            )
        await asyncio.gather(*(self._clusters[name].start() for name in names))

    def retire(self, name: str) -> ServedCluster:
        """Remove a cluster and return it. The caller must drain its connections."""
        self._by_way = None
        return self._clusters.pop(name)

    def reconfigure(self, config: Config, change: Change) -> None:
        """Use other settings and the current ways for the clusters that stay."""
        for name in (*change.kept, *change.renewed):
            one, cluster = config.clusters[name], self._clusters[name]
            cluster.reconfigure(one, self._ways.of(one), has_changed=name in change.renewed)
            cluster.admit_or_refuse()  # the new hold_timeout may decide otherwise
        self._by_way = None  # a cluster may have another gateway now

    def behind(self, way: str) -> Sequence[ServedCluster]:
        """The clusters that have this gateway or site."""
        if self._by_way is None:
            self._by_way = {}
            for one in self._clusters.values():
                self._by_way.setdefault(one.cluster.config.gateway, []).append(one)
        return self._by_way.get(way, ())

    def stop_accepting(self) -> None:
        """Stop accepting clients. systemd keeps the sockets for the next process."""
        for cluster in self._clusters.values():
            cluster.stop_accepting()

    async def close(self) -> None:
        """Cut every connection."""
        await asyncio.gather(*(cluster.retire(0) for cluster in self._clusters.values()))
