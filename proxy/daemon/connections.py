"""The clients of one destination: a cluster, a route or a site. Each gets a channel, and is relayed until
both sides have ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog

from proxy.daemon.access import Access, Allow
from proxy.daemon.leaving import Leaving
from proxy.entries.admission import Admission
from proxy.entries.arrival import Arrival, summed
from proxy.errors import ProxyError
from proxy.errors.reasons import Reason
from proxy.metrics import Metrics, Traffic
from proxy.relay.budget import MemoryBudget
from proxy.relay.idle import IdleWatch
from proxy.relay.interfaces import Channel, Relay
from proxy.relay.waiting import WaitingForMemory
from proxy.runtime.endpoint import Endpoint
from proxy.runtime.tasks import Tasks

log = structlog.get_logger("kubemux.connection")

HALF_CLOSE_S: Final = 1.0
"""At the end of a drain, kubemux sends an end of file to the API servers. They have this long to close the
remaining connections.
"""

Open = Callable[[Arrival, float], Awaitable[tuple[Channel, Endpoint]]]
"""Opens a channel for a client. The float is how long the client may wait for a link: a time of the loop's
clock. Returns the channel and its target. Raises ProxyError.
"""


@dataclass(slots=True)
class Shared:
    """What all destinations of a daemon share."""

    budget: MemoryBudget
    admission: Admission
    metrics: Metrics
    hold_timeout: float
    waiting: WaitingForMemory
    access: Access


class Connections:
    """The connections of one destination."""

    def __init__(self, kind: str, name: str, traffic: Traffic, shared: Shared) -> None:
        """`kind` is `cluster`, `route` or `site`: the log field that has `name`."""
        self.connections_total = 0
        self.traffic = traffic
        self.name = name
        self._kind = kind
        self._shared = shared
        self._loop = asyncio.get_running_loop()
        self._tasks = Tasks(f"{kind} {name}")
        self.active = 0
        """The number of client connections now, including those that wait for a channel."""
        self._serving: dict[Arrival, asyncio.Task[None]] = {}
        """Clients without a relay, or with a relay that does not own the client's socket yet."""
        self._relays: dict[Relay, Arrival] = {}
        self._why: dict[Arrival, Reason] = {}
        """Why clients without a relay are sent away, if that is not for a drain."""
        self._leaving: list[Leaving] = []
        self._idle_watch: IdleWatch[Relay] = IdleWatch()
        self._idle = asyncio.Event()
        self._idle.set()

    def __repr__(self) -> str:
        return f"<Connections {self._kind}={self.name} active={self.active} relays={len(self._relays)}>"

    @property
    def paused(self) -> int:
        """The number of connections in which backpressure has paused at least one direction."""
        return sum(relay.is_client_paused or relay.is_cluster_paused for relay in self._relays)

    # --------------------------------------------------------------------------------------------- clients

    def accept(self, arrival: Arrival, open_channel: Open, *, limit: int | None, allow: Allow | None) -> None:
        """Serve a client, or refuse it. `limit` is the destination's `max_connections`."""
        self.connections_total += 1
        if limit is not None and self.traffic.active >= limit:
            # `traffic` also counts the connections of a destination of this name that a reload has replaced
            hint = f"{self._kind}s.{self.name}.max_connections is {limit}"
            self._refuse(arrival, Reason.CLUSTER_LIMIT, hint)
            return
        if not self._shared.admission.enter():
            hint = f"limits.max_connections is {self._shared.admission.limit}"
            self._refuse(arrival, Reason.LIMIT, hint)
            return
        self.traffic.opened += 1
        if not self.active:
            self._idle.clear()
        self.active += 1
        arrival.began = self._loop.time()
        serve = self._serve(arrival, open_channel, allow)
        self._serving[arrival] = self._tasks.spawn(serve, name="open", on_end=lambda _: self._served(arrival))

    def refuse(self, arrival: Arrival, reason: Reason, hint: str) -> None:
        """Count a client that cannot be served, and refuse it."""
        self.connections_total += 1
        self._refuse(arrival, reason, hint)

    def _refuse(self, arrival: Arrival, reason: Reason, hint: str) -> None:
        arrival.refuse(reason, hint)
        arrival.ended(reason)
        self.traffic.results[reason] += 1
        arrival.log_refused(reason, hint=hint, **{self._kind: self.name})

    def _served(self, arrival: Arrival) -> None:
        if self._serving.pop(arrival, None) is not None:  # its task was cancelled before it began
            reason = self._why.pop(arrival, Reason.SHUTDOWN)
            arrival.refuse(reason)
            self._ended(arrival, reason)
        elif self._why and (late := self._why.pop(arrival, None)) is not None:  # its relay has started since
            for relay in [one for one, whose in self._relays.items() if whose is arrival]:
                relay.abort(late)

    async def _serve(self, arrival: Arrival, open_channel: Open, allow: Allow | None) -> None:
        relay: Relay | None = None
        reason, message = Reason.SHUTDOWN, ""
        try:
            if allow is not None or arrival.needs_allow:
                await self._shared.access.require(allow or (), arrival.caller, entry=arrival.entry)
            channel, arrival.target = await open_channel(arrival, arrival.began + self._shared.hold_timeout)
            self.traffic.channel_open.observe(self._loop.time() - arrival.began)
            relay = arrival.relay(channel, self.traffic, self._shared.budget, self._relay_ended)
            self._relays[relay] = arrival
            await relay.start()
        except ProxyError as exc:
            reason, message = exc.reason, str(exc)
            if isinstance(exc.__cause__, ProxyError):  # why the gateway has no link
                message += f": {exc.__cause__.reason}"
        except OSError as exc:  # the client has closed its connection while it waited
            reason, message = Reason.CLIENT_RESET, exc.strerror or str(exc)
        except Exception as exc:  # `Tasks` logs it
            reason, message = ProxyError.reason, str(exc)
            raise
        finally:
            del self._serving[arrival]
            if relay is None or not relay.has_started:
                reason = self._why.pop(arrival, reason)
                arrival.refuse(reason, message)
                if relay is not None:
                    self._relays.pop(relay, None)
                self._ended(arrival, reason, message=message)
            elif self._leaving and relay not in self._relays:  # it has ended while it started
                self._left(arrival)

    def _left(self, arrival: Arrival) -> None:
        for group in self._leaving:
            group.ended(arrival)

    def _relay_ended(self, relay: Relay) -> None:
        arrival = self._relays.pop(relay)
        if relay.first_byte_at is not None:
            self.traffic.first_byte.observe(relay.first_byte_at - arrival.began)
        self._ended(
            arrival,
            relay.reason or Reason.INTERNAL,
            to_cluster=relay.to_cluster,
            from_cluster=relay.from_cluster,
        )

    def _ended(
        self,
        arrival: Arrival,
        reason: Reason,
        *,
        to_cluster: int = 0,
        from_cluster: int = 0,
        message: str = "",
    ) -> None:
        seconds = self._loop.time() - arrival.began
        self._left(arrival)
        self.active -= 1
        self.traffic.closed += 1
        arrival.ended(reason)
        self._shared.admission.leave()
        self._shared.waiting.wake()
        self.traffic.results[reason] += 1
        self.traffic.connection_duration.observe(seconds)
        if not self.active:
            self._idle.set()
        is_refused = reason is Reason.DENIED and arrival.target is None
        if not (clients := arrival.lines_due(reason) if is_refused else 1):
            return
        fields = self._fields(arrival)
        if arrival.target is not None:
            fields["target"] = str(arrival.target)
        if message:
            fields["message"] = message
        log.info(
            "connection closed",
            to_cluster=to_cluster,
            from_cluster=from_cluster,
            seconds=round(seconds, 3),
            reason=reason,
            **fields,
            **summed(clients),
        )

    def _fields(self, arrival: Arrival) -> dict[str, str]:
        """The log's fields about the client: its entry, its identity, and what it asked for."""
        fields = arrival.fields()
        fields[self._kind] = self.name
        return fields

    # -------------------------------------------------------------------------------------- for the heartbeat

    def drop_reset_clients(self) -> None:
        """End connections that the client has reset while they were paused. A paused transport does not
        notice that.
        """
        for relay in tuple(self._relays):
            if relay.is_client_gone:
                relay.abort(Reason.CLIENT_RESET)

    def end_idle(self, idle_timeout: float | None) -> None:
        """End the connections that have been idle for `idle_timeout` seconds."""
        for relay in self._idle_watch.sample(self._relays, idle_timeout, self._loop.time()):
            relay.abort(Reason.IDLE)

    # ----------------------------------------------------------------------------------------------- the end

    def end(self, caller: str) -> int:
        """End the connections of `caller` at once, a name as the log shows it. Returns how many they were."""
        return self.end_where(lambda one: Reason.SHUTDOWN if one.caller.is_called(caller) else None)

    def end_where(self, why: Callable[[Arrival], Reason | None]) -> int:
        """End the connections for which `why` returns a reason, at once. Returns how many they were."""
        started = {arrival: relay for relay, arrival in self._relays.items() if relay.has_started}
        everybody = {**self._serving, **started}
        ending = {one: reason for one in everybody if (reason := why(one)) is not None}
        for arrival, reason in ending.items():
            if arrival in started:
                started[arrival].abort(reason)
            else:
                if self._serving[arrival].cancel():
                    self._why[arrival] = reason
        return len(ending)

    async def drain(
        self,
        timeout: float,  # noqa: ASYNC109 - a budget, not a failure
        *,
        gently: bool | None = None,
    ) -> int:
        """Wait up to `timeout` seconds until the connections have ended, then cut the remaining ones. Returns
        how many were cut.

        They are half-closed first: then the API server ends a watch in order, and the client sees no reset.
        The ones that are still open after `HALF_CLOSE_S` are reset. If not `gently` (default: with a timeout
        of 0), all are reset at once.
        """
        await _for(timeout, self._idle)
        left = self.active
        await self._tasks.close()
        gently = timeout > 0 if gently is None else gently
        await self._cut(lambda: tuple(self._relays), self._idle, gently=gently)
        await self._idle.wait()
        return left

    async def leave(
        self,
        timeout: float,  # noqa: ASYNC109 - a budget, not a failure
        *,
        waiting: bool = False,
    ) -> int:
        """Like `drain`, but only for the connections that are relayed now, and with `waiting` also for those
        that wait for a channel now. New ones are not cut.
        """
        now = {arrival for relay, arrival in self._relays.items() if relay.has_started}
        group = Leaving(now | {*self._serving} if waiting else now)
        self._leaving.append(group)
        try:
            await _for(timeout, group.gone)
            left = len(group)
            opening = [task for arrival, task in self._serving.items() if arrival in group]
            for task in opening:
                task.cancel()
            await asyncio.gather(*opening, return_exceptions=True)
            await self._cut(
                lambda: tuple(relay for relay, arrival in self._relays.items() if arrival in group),
                group.gone,
                gently=timeout > 0,
            )
            await group.gone.wait()
        finally:
            self._leaving.remove(group)
        return left

    async def _cut(self, relays: Callable[[], Iterable[Relay]], gone: asyncio.Event, *, gently: bool) -> None:
        if gently and not gone.is_set():
            for relay in relays():
                relay.half_close(Reason.SHUTDOWN)
            await _for(HALF_CLOSE_S, gone)
        for relay in relays():
            relay.abort(Reason.SHUTDOWN)


async def _for(seconds: float, event: asyncio.Event) -> None:
    """Wait until the event, for `seconds` at most."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
