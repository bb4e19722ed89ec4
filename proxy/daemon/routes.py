"""The routes of the daemon with their discoveries, and how a reload changes them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping

from proxy.config.model import Config, RouteConfig
from proxy.daemon.connections import Shared
from proxy.daemon.discovering import Discoveries
from proxy.daemon.routed import Routed
from proxy.daemon.served import ServedCluster
from proxy.daemon.ways import Ways
from proxy.health.tls import Contexts


class Routes(Mapping[str, Routed]):
    """The routes, by name."""

    def __init__(
        self,
        shared: Shared,
        ways: Ways,
        clusters: Mapping[str, ServedCluster],
        contexts: Contexts,
        on_change: Callable[[], None],
    ) -> None:
        """`clusters` is the daemon's own mapping. `on_change` is called after a change of the status."""
        self._shared = shared
        self._ways = ways
        self._routes: dict[str, Routed] = {}
        self.discoveries = Discoveries(clusters, self, contexts, on_change, shared.metrics)

    def __getitem__(self, name: str) -> Routed:
        return self._routes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._routes)

    def __len__(self) -> int:
        return len(self._routes)

    def retire(self, name: str) -> Routed:
        """Remove a route and return it. The caller must drain its connections."""
        return self._routes.pop(name)

    def reconfigure(self, config: Config) -> None:
        """Add new routes. Use other settings and the current ways for existing ones."""
        for route in config.routes:
            if route.name in self._routes:
                self._routes[route.name].reconfigure(route, self._ways.to(route))
            else:
                self._add(route)

    def _add(self, config: RouteConfig) -> None:
        discovery = self.discoveries.of(config)
        self._routes[config.name] = Routed(config, self._ways.to(config), self._shared, discovery)

    async def close(self) -> None:
        """Cut every connection."""
        await asyncio.gather(*(route.retire(0) for route in self._routes.values()))
