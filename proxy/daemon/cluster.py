"""The client connections of one cluster: it opens a channel for each client, and relays until both close.

A probe uses the same code as a client: `dial` returns one end of a socket pair, whose other end is relayed
like a client's socket.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog

from proxy.config.model import ClusterConfig
from proxy.entries.admission import Admission
from proxy.entries.arrival import Arrival, Caller
from proxy.errors import ProxyError
from proxy.errors.reasons import Reason
from proxy.metrics import Metrics
from proxy.relay.attach import attach
from proxy.relay.budget import MemoryBudget
from proxy.relay.failover import Failover
from proxy.relay.idle import IdleWatch
from proxy.relay.interfaces import Way
from proxy.relay.probing import Dialled
from proxy.relay.relay import Relay
from proxy.relay.waiting import WaitingForMemory
from proxy.runtime.endpoint import Endpoint
from proxy.runtime.tasks import Tasks

log = structlog.get_logger("kubemux.connection")

HALF_CLOSE_S: Final = 1.0
"""How long the API servers have at the end of a drain to close the connections that are left, after kubemux
has sent them the end of file.
"""


@dataclass(slots=True)
class Shared:
    """What all clusters of a daemon use together."""

    budget: MemoryBudget
    admission: Admission
    metrics: Metrics
    hold_timeout: float
    waiting: WaitingForMemory


class Cluster:
    """One cluster: the connections of its clients."""

    def __init__(self, name: str, config: ClusterConfig, way: Way, shared: Shared) -> None:
        self.name = name
        self.config = config
        self._way = way
        self.connections_total = 0
        self._shared = shared
        self._loop = asyncio.get_running_loop()
        self._tasks = Tasks(f"cluster {name}")
        self._relays: set[Relay] = set()
        self._idle_watch: IdleWatch[Relay] = IdleWatch()
        self._opening = 0
        self._failover = Failover(
            config.api_servers, shared.budget, shared.waiting, on_next=self._next_api_server
        )
        self._idle = asyncio.Event()
        self._idle.set()
        self.traffic = shared.metrics.traffic(name)

    def __repr__(self) -> str:
        return f"<Cluster {self.name} opening={self._opening} relays={len(self._relays)}>"

    def reconfigure(self, config: ClusterConfig, way: Way) -> None:
        """Use these settings and this way for new clients. Open connections are not touched."""
        self.config = config
        self._way = way

    @property
    def order(self) -> tuple[Endpoint, ...]:
        """The API servers in the order in which the next client tries them."""
        return self._failover.order

    @property
    def active(self) -> int:
        """Client connections at this moment, including those that wait for a channel."""
        return self._opening + len(self._relays)

    @property
    def has_link(self) -> bool:
        """Whether its way is up, so that a client need not wait for a link."""
        return self._way.is_up

    @property
    def is_hopeless(self) -> bool:
        """Whether there has been no link for longer than `hold_timeout`: holding a client is no use."""
        return self._way.is_given_up(self._shared.hold_timeout)

    @property
    def paused(self) -> int:
        """Connections in which backpressure has paused at least one direction."""
        return sum(relay.is_client_paused or relay.is_cluster_paused for relay in self._relays)

    # --------------------------------------------------------------------------------------------- clients

    def accept(self, arrival: Arrival) -> None:
        """Serve a client, or refuse it."""
        self.connections_total += 1
        limit = self.config.max_connections
        if limit is not None and self.traffic.active >= limit:
            # `traffic` also counts the connections of a cluster of this name that a reload has replaced
            self._refuse(arrival, Reason.CLUSTER_LIMIT, f"clusters.{self.name}.max_connections is {limit}")
            return
        if not self._shared.admission.enter():
            self._refuse(arrival, Reason.LIMIT, f"limits.max_connections is {self._shared.admission.limit}")
            return
        self.traffic.opened += 1
        self._opening += 1
        self._idle.clear()
        self._tasks.spawn(self._serve(arrival), name=f"open for {arrival.caller}")

    def _refuse(self, arrival: Arrival, reason: Reason, hint: str) -> None:
        arrival.refuse(reason)
        self.traffic.results[reason] += 1
        log.warning(
            "connection refused", cluster=self.name, client=str(arrival.caller), reason=reason, hint=hint
        )

    async def _serve(self, arrival: Arrival) -> None:
        caller, started = arrival.caller, self._loop.time()
        relay: Relay | None = None
        reason, message = Reason.SHUTDOWN, ""
        try:
            channel, _ = await self._failover.open_channel(
                self._way, origin=caller.address, hold_until=started + self._shared.hold_timeout
            )
            self.traffic.channel_open.observe(self._loop.time() - started)
            relay = Relay(
                channel,
                self.traffic,
                self._shared.budget,
                lambda relay: self._relay_ended(relay, caller, started),
                early=arrival.early,
            )
            self._opening -= 1
            self._relays.add(relay)
            await attach(relay, channel, arrival.start)
        except ProxyError as exc:
            reason, message = exc.reason, str(exc)
        except OSError as exc:  # the client has gone while it waited
            reason, message = Reason.CLIENT_RESET, exc.strerror or str(exc)
        except Exception as exc:  # `Tasks` logs it
            reason, message = ProxyError.reason, str(exc)
            raise
        finally:
            if relay is None or not relay.has_started:
                arrival.refuse(reason)
                if relay is None:
                    self._opening -= 1
                else:
                    self._relays.discard(relay)
                self._ended(caller, started, reason, message=message)
            self._check_idle()

    def _next_api_server(self, failed: Endpoint, first: Endpoint) -> None:
        log.warning("next API server", cluster=self.name, failed=str(failed), next=str(first))

    def _relay_ended(self, relay: Relay, caller: Caller, started: float) -> None:
        self._relays.discard(relay)
        if relay.first_byte_at is not None:
            self.traffic.first_byte.observe(relay.first_byte_at - started)
        self._ended(
            caller,
            started,
            relay.reason or Reason.INTERNAL,
            to_cluster=relay.to_cluster,
            from_cluster=relay.from_cluster,
        )

    def _ended(
        self,
        caller: Caller,
        started: float,
        reason: Reason,
        *,
        to_cluster: int = 0,
        from_cluster: int = 0,
        message: str = "",
    ) -> None:
        seconds = self._loop.time() - started
        self.traffic.closed += 1
        self._shared.admission.leave()
        self._shared.waiting.wake()
        self.traffic.results[reason] += 1
        self.traffic.connection_duration.observe(seconds)
        fields = {"message": message} if message else {}
        log.info(
            "connection closed",
            cluster=self.name,
            client=str(caller),
            to_cluster=to_cluster,
            from_cluster=from_cluster,
            seconds=round(seconds, 3),
            reason=reason,
            **fields,
        )
        self._check_idle()

    def _check_idle(self) -> None:
        if not self.active:
            self._idle.set()

    def drop_reset_clients(self) -> None:
        """End connections that the client has reset while they were paused: no transport notices that."""
        for relay in tuple(self._relays):
            if relay.is_client_gone:
                relay.abort(Reason.CLIENT_RESET)

    def end_idle(self) -> None:
        """End the connections that have been idle for the cluster's `idle_timeout`."""
        now = asyncio.get_running_loop().time()
        for relay in self._idle_watch.sample(self._relays, self.config.idle_timeout, now):
            relay.abort(Reason.IDLE)

    # ---------------------------------------------------------------------------------------------- probes

    async def dial(self, deadline: float) -> Dialled:
        """A connection to an API server for a probe, relayed like a client's (`proxy.health.probe.Dial`).

        Raises ProxyError.
        """
        return await self._failover.dial_probe(self._way, deadline)

    # ------------------------------------------------------------------------------------------- life cycle

    async def drain(self, timeout: float) -> int:  # noqa: ASYNC109 - a budget, not a failure
        """Wait up to `timeout` seconds for the connections to end, and cut the others; returns their number.

        Those are half-closed first: the API server then ends a watch in order, and the client sees no reset.
        What is still open after `HALF_CLOSE_S` is reset. With a timeout of 0, all are reset at once.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._idle.wait()
        except TimeoutError:
            pass
        left = self.active
        await self._tasks.close()
        if timeout > 0 and self._relays:
            for relay in tuple(self._relays):
                relay.half_close(Reason.SHUTDOWN)
            with suppress(TimeoutError):
                async with asyncio.timeout(HALF_CLOSE_S):
                    await self._idle.wait()
        for relay in tuple(self._relays):
            relay.abort(Reason.SHUTDOWN)
        await self._idle.wait()
        return left
