"""One gateway: keeps its links up and chooses one for each new channel.

A single supervisor task dials, one attempt at a time, so a wrong key is tried once and not by every link, and the second
link follows as soon as the first is up. Clients that come while no link is up wait for `_up` until their own deadline.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import count

import structlog

from proxy.config.model import GatewayConfig
from proxy.config.values import Endpoint
from proxy.errors import LinkDown, LinkError, LinkReplaced
from proxy.metrics import Metrics
from proxy.relay.budget import MemoryBudget
from proxy.snapshots import GatewaySnapshot, GatewayState
from proxy.ssh.channel import SshChannel
from proxy.ssh.dial import dial
from proxy.ssh.governor import HANDSHAKES_IN_FLIGHT, Backoff
from proxy.ssh.link import Link
from proxy.ssh.native.channel import NativeChannel
from proxy.tasks import Tasks

log = structlog.get_logger("kubemux.gateway")


class Handshakes(defaultdict[str, asyncio.Semaphore]):
    """How many handshakes may be in flight with each SSH server (`HOST:PORT`), over all gateways."""

    def __init__(self) -> None:
        super().__init__(lambda: asyncio.Semaphore(HANDSHAKES_IN_FLIGHT))


class Gateway:
    """A `proxy.relay.interfaces.Route` over SSH. `on_change` is called after links have come or gone."""

    def __init__(
        self,
        name: str,
        config: GatewayConfig,
        gateways: Mapping[str, GatewayConfig],
        *,
        budget: MemoryBudget,
        metrics: Metrics,
        handshakes: Handshakes,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.config = config
        self._gateways = gateways
        self._budget = budget
        self._metrics = metrics
        self._handshakes = handshakes
        self._on_change = on_change
        self._supervisor = Tasks(f"gateway {name}")
        self._tasks = Tasks(f"gateway {name}")
        self._links: list[Link] = []
        self._up = asyncio.Event()
        self._wanted = asyncio.Event()
        self._hurry = asyncio.Event()
        self._backoff = Backoff()
        self._numbers = count(1)
        self._reconnects = 0
        self._lost_reasons: list[str] = []
        self._retry_at: float | None = None
        self._failure: LinkError | None = None
        self._state = GatewayState.CONNECTING
        self._is_closing = False

    def __repr__(self) -> str:
        return f"<Gateway {self.name} {self._state} links={self._links}>"

    def start(self) -> None:
        """Begin to dial."""
        metrics, name = self._metrics, self.name
        metrics.gateway_connected.labels(name).set(0)
        metrics.gateway_links.labels(name).set(0)
        metrics.gateway_backoff.labels(name).set(0)
        metrics.link_data_plane.labels(name, "asyncssh").set(0)
        metrics.link_data_plane.labels(name, "native").set(0)
        self._wanted.set()
        self._supervisor.spawn(self._supervise(), name="supervise")

    async def connect(self) -> None:
        """Dial one link now, once, for a command that needs no supervision. Raises LinkError."""
        self._link_up(await self._dial())

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - a budget, not a failure
        """Dial no more, wait up to `timeout` seconds until no channel is left, then close."""
        self._is_closing = True
        await self._supervisor.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await asyncio.gather(*(link.idle.wait() for link in self._links))
        await self.close()

    async def close(self) -> None:
        """Close every link and wait until they are closed."""
        self._is_closing = True
        await self._supervisor.close()
        await asyncio.gather(*(link.close() for link in self._links))
        await self._tasks.close()
        self._links.clear()
        self._up.clear()

    @property
    def is_up(self) -> bool:
        """Whether at least one link is up."""
        return bool(self._links)

    def snapshot(self) -> GatewaySnapshot:
        """For status."""
        now = asyncio.get_running_loop().time()
        failure = self._failure
        return GatewaySnapshot(
            name=self.name,
            state=self._state,
            links=tuple(link.snapshot() for link in self._links),
            wanted=self.config.connections,
            reconnects=self._reconnects,
            retry_in=max(0.0, self._retry_at - now) if self._retry_at is not None else None,
            reason=failure.reason if failure else "",
            message=str(failure) if failure else "",
            hint=failure.hint if failure else "",
        )

    # -------------------------------------------------------------------------------------------- channels

    async def open_channel(self, target: Endpoint, *, origin: Endpoint, hold_until: float) -> SshChannel | NativeChannel:
        """See `proxy.relay.interfaces.Route`. A link that ends meanwhile is replaced by the next, until `hold_until`."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with asyncio.timeout_at(hold_until):
                    await self._up.wait()
            except TimeoutError:
                # Not the failure itself: in `status` it would stand beside the gateway's own line, and be older than that.
                raise LinkDown(f"gateway {self.name} has no link") from self._failure
            link = min(self._links, key=lambda link: link.load)
            try:
                return await link.open_channel(target, origin=origin, timeout=self.config.connect_timeout)
            except LinkDown:
                if loop.time() >= hold_until:
                    raise
                # Not `await link.closed`: the first client to leave would cancel the future under everybody.
                await asyncio.wait([link.closed], timeout=hold_until - loop.time())

    # ----------------------------------------------------------------------------------------- supervision

    async def reconnect(self) -> None:
        """Replace every link, and skip the wait if there is one."""
        if self._retry_at is not None:
            self._hurry.set()
        for link in list(self._links):
            await link.close(LinkReplaced(f"link to {link.server} replaced on request"))

    async def _supervise(self) -> None:
        while True:
            await self._wanted.wait()
            if len(self._links) >= self.config.connections:
                self._wanted.clear()
                continue
            if self._retry_at is not None:
                await self._wait_for_retry()
            try:
                link = await self._dial()
            except LinkError as exc:
                self._dial_failed(exc)
            else:
                self._link_up(link)

    async def _dial(self) -> Link:
        # asyncssh may report the end before there is a Link to tell.
        early: list[Exception | None] = []
        link: Link | None = None

        def on_lost(exc: Exception | None) -> None:
            if link is None:
                early.append(exc)
            else:
                link.lost(exc)

        dialled = await dial(self.config, self._gateways, self._handshakes.__getitem__, on_lost)
        self._metrics.gateway_handshake.labels(self.name).observe(dialled.handshake)
        link = Link(
            dialled.conns,
            server=dialled.server,
            budget=self._budget,
            name=f"link {self.name}/{next(self._numbers)}",
        )
        if early:
            link.lost(early[0])
        return link

    def _dial_failed(self, exc: LinkError) -> None:
        self._metrics.gateway_connects.labels(self.name, exc.reason).inc()
        first_time = self._failure is None or (self._failure.reason, str(self._failure)) != (exc.reason, str(exc))
        self._failure = exc
        delay = self._backoff.failed(exc.retry)
        self._set_retry(delay)
        say = log.warning if first_time else log.debug
        say(
            "gateway dial failed",
            gateway=self.name,
            reason=exc.reason,
            message=str(exc),
            hint=exc.hint,
            retry_in=round(delay, 1),
        )
        self._changed()

    def _set_retry(self, delay: float | None) -> None:
        self._retry_at = None if delay is None else asyncio.get_running_loop().time() + delay
        self._metrics.gateway_backoff.labels(self.name).set(delay or 0.0)

    async def _wait_for_retry(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._retry_at):
                await self._hurry.wait()
        self._hurry.clear()
        self._set_retry(None)

    def _link_up(self, link: Link) -> None:
        self._metrics.gateway_connects.labels(self.name, "ok").inc()
        if self._lost_reasons:
            self._reconnects += 1
            self._metrics.gateway_reconnects.labels(self.name, self._lost_reasons.pop(0)).inc()
        self._failure = None
        self._links.append(link)
        link.start(self.config.keepalive.interval, self._metrics.gateway_rtt.labels(self.name).set)
        self._tasks.spawn(self._watch(link), name=f"watch {link.name}")
        log.info("link up", gateway=self.name, link=link.name, server=link.server)
        self._changed()

    async def _watch(self, link: Link) -> None:
        error = await asyncio.shield(link.closed)
        self._links.remove(link)
        self._lost_reasons.append(error.reason)
        self._failure = error
        say, event = log.info, "link closed"
        if not isinstance(error, LinkReplaced):
            say, event = log.warning, "link lost"
            self._set_retry(self._backoff.lost(link.age))
        say(
            event,
            gateway=self.name,
            link=link.name,
            server=link.server,
            reason=error.reason,
            message=str(error),
            seconds=round(link.age, 1),
        )
        self._changed()  # before anything else runs: nobody may wait for a link that is gone
        self._wanted.set()
        await link.close(error)

    def _changed(self) -> None:
        """Bring state, metrics and waiting clients in line with the links; log a change of state."""
        up = len(self._links)
        if up:
            self._up.set()
        else:
            self._up.clear()
        if self._is_closing:  # the metrics of that name may be another gateway's by now
            return
        if up >= self.config.connections:
            state = GatewayState.UP
        elif up:
            state = GatewayState.DEGRADED
        else:
            state = GatewayState.DOWN
        self._metrics.gateway_links.labels(self.name).set(up)
        self._metrics.gateway_connected.labels(self.name).set(1 if up else 0)
        for mode in ("native", "asyncssh"):
            self._metrics.link_data_plane.labels(self.name, mode).set(sum(link.data_plane == mode for link in self._links))
        if state is not self._state:
            say = log.warning if state is GatewayState.DOWN else log.info
            say("gateway state", gateway=self.name, state=str(state), was=str(self._state), links=up)
            self._state = state
        self._on_change()
