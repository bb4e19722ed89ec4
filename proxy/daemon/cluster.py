"""The client connections of one cluster: each goes to the first of its API servers that takes it.

A probe uses the same code as a client: `dial` returns one end of a socket pair, whose other end is relayed
like a client's socket.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable

import structlog

from proxy.config.model import ClusterConfig
from proxy.daemon.connections import Connections, Shared
from proxy.entries.arrival import Arrival
from proxy.relay.failover import Failover
from proxy.relay.interfaces import Channel, Way
from proxy.relay.probing import Dialled
from proxy.runtime.endpoint import Endpoint

log = structlog.get_logger("kubemux.connection")


class Cluster:
    """One cluster: its API servers and its client connections."""

    def __init__(self, name: str, config: ClusterConfig, way: Way, shared: Shared) -> None:
        self.name = name
        self.config = config
        self.connections = Connections("cluster", name, shared.metrics.traffic(name), shared)
        self._way = way
        self._shared = shared
        self._failover = Failover(
            config.api_servers, shared.budget, shared.waiting, on_next=self._next_api_server
        )

    def __repr__(self) -> str:
        return f"<Cluster {self.name} {self.connections}>"

    def reconfigure(self, config: ClusterConfig, way: Way) -> None:
        """Use these settings and this way for new clients. Open connections are not touched."""
        self.config = config
        self._way = way

    @property
    def order(self) -> tuple[Endpoint, ...]:
        """The API servers in the order in which the next client tries them."""
        return self._failover.order

    @property
    def has_link(self) -> bool:
        """Whether its way is up, so that a client need not wait for a link."""
        return self._way.is_up

    @property
    def is_idle(self) -> bool:
        """Whether it cannot be probed: its gateway is dialled on demand, and no client needs it."""
        return self._way.is_idle and not self.config.probe.keep_up

    @property
    def is_hopeless(self) -> bool:
        """Whether there has been no link for longer than `hold_timeout`: holding a client is no use."""
        return self._way.is_given_up(self._shared.hold_timeout)

    def accept(self, arrival: Arrival) -> None:
        """Serve a client, or refuse it."""
        self.connections.accept(
            arrival, self._open, limit=self.config.max_connections, allow=self.config.allow
        )

    def beat(self) -> None:
        """End connections that are of no use any more. Call it about twice a second."""
        self.connections.drop_reset_clients()
        self.connections.end_idle(self.config.idle_timeout)

    async def dial(self, deadline: float) -> Dialled:
        """A connection to an API server for a probe, relayed like a client's (`proxy.health.probe.Dial`).

        Raises ProxyError.
        """
        return await self._failover.dial_probe(self._way, deadline, is_needed=self.config.probe.keep_up)

    async def dial_for_pods(self, deadline: float) -> Dialled:
        """Like `dial`, for a watch of pods. It counts as a client: a gateway on demand dials for it, and
        stays up.
        """
        return await self._failover.dial_probe(self._way, deadline, is_needed=True)

    def _open(self, arrival: Arrival, hold_until: float) -> Awaitable[tuple[Channel, Endpoint]]:
        return self._failover.open_channel(
            self._way,
            origin=arrival.caller.origin,
            hold_until=hold_until,
            answer_by=hold_until + self._way.connect_timeout if arrival.is_answered else math.inf,
        )

    def _next_api_server(self, failed: Endpoint, first: Endpoint) -> None:
        log.warning("next API server", cluster=self.name, failed=str(failed), next=str(first))
