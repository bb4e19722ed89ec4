"""One route at run time: the clients that asked for a name that the route matches."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import structlog

from proxy.config.model import RouteConfig
from proxy.daemon.connections import Connections, Shared
from proxy.daemon.discovery.discovery import Discovery
from proxy.entries.arrival import Arrival
from proxy.errors.reasons import Reason
from proxy.relay.failover import Failover
from proxy.relay.interfaces import Channel, Way
from proxy.routing.names import ToTarget
from proxy.runtime.endpoint import Endpoint
from proxy.snapshots import RouteSnapshot

log = structlog.get_logger("kubemux.daemon")

WayTo = Callable[[str], Way]
"""Returns the way to a requested host."""


class Routed:
    """One route, and the connections of its clients. Each client has its own target."""

    def __init__(
        self, config: RouteConfig, way_to: WayTo, shared: Shared, discovery: Discovery | None
    ) -> None:
        self.config = config
        self.discovery = discovery
        """The pods of the route; None without `discover`."""
        self.is_drained = False
        self.connections = Connections("route", config.name, shared.metrics.route(config.name), shared)
        self._way_to = way_to
        self._shared = shared

    def __repr__(self) -> str:
        return f"<Routed {self.config.name} {self.connections}>"

    def reconfigure(self, config: RouteConfig, way_to: WayTo) -> None:
        """Use these settings for new clients, also if it was drained. Open connections are not touched."""
        self.is_drained = False
        self.config = config
        self._way_to = way_to

    def accept(self, arrival: Arrival, decision: ToTarget) -> None:
        """Serve a client, or refuse it."""
        if self.is_drained:
            self.connections.refuse(arrival, Reason.DRAINED, f"route {self.config.name} is drained")
            return
        open_channel = partial(self._open, self._way_to, decision)
        self.connections.accept(arrival, open_channel, limit=None, allow=self.config.allow)

    async def drain(self, timeout: float) -> int:  # noqa: ASYNC109 - a budget, not a failure
        """Take no more clients, and wait up to `timeout` seconds for open connections to end.

        Returns how many connections it cut.
        """
        self.is_drained = True
        log.info("draining", route=self.config.name, connections=self.connections.active)
        cut = await self.connections.leave(timeout, waiting=True)  # a reload may let clients in meanwhile
        log.info("drained", route=self.config.name, cut=cut)
        return cut

    async def retire(self, timeout: float) -> None:  # noqa: ASYNC109 - a budget, not a failure
        """Stop watching pods, and wait up to `timeout` seconds for open connections to end."""
        if self.discovery is not None:
            await self.discovery.close()
        await self.connections.drain(timeout)

    def beat(self) -> None:
        """End connections that are of no use any more. Call it about twice a second."""
        self.connections.drop_reset_clients()

    def snapshot(self) -> RouteSnapshot:
        """For status."""
        traffic = self.connections.traffic
        return RouteSnapshot(
            name=self.config.name,
            match=tuple(map(str, self.config.match)),
            gateway=self.config.gateway,
            connections=self.connections.active,
            connections_total=self.connections.connections_total,
            bytes_to_target=traffic.to_cluster,
            bytes_from_target=traffic.from_cluster,
            discovery=self.discovery.snapshot() if self.discovery else None,
            drained=self.is_drained,
        )

    def _open(
        self, way_to: WayTo, decision: ToTarget, arrival: Arrival, hold_until: float
    ) -> Awaitable[tuple[Channel, Endpoint]]:
        one = Failover((decision.target,), self._shared.budget, self._shared.waiting)
        way = way_to(decision.host)
        return one.open_channel(
            way,
            origin=arrival.caller.origin,
            hold_until=hold_until,
            answer_by=hold_until + way.connect_timeout,
        )
