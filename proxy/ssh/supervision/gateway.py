"""One gateway: keeps its links up and chooses one for each new channel.

One supervisor task dials, one attempt at a time. So a wrong key is tried once, not once for each link, and
the second link is dialled as soon as the first is up. Clients that arrive while no link is up wait
(`waiting`) until their own deadline.

A gateway with `dial: on_demand` has links only while clients are there, and for `idle_timeout` after that;
`demand` decides how many.

`dialler` makes the links, `retry` decides when, `lifetimes` watches and replaces them until they have ended,
and `links` decides which of them get new channels.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import chain
from typing import Final

from proxy.config.gateways import MOST_CONNECTIONS, GatewayConfig
from proxy.errors import HostKeyRevoked, LinkClosed, LinkDown, LinkError, LinkReplaced, RetryClass
from proxy.errors.reasons import Reason
from proxy.metrics.records import GatewayRecord
from proxy.relay.budget import MemoryBudget
from proxy.relay.interfaces import Channel
from proxy.runtime.endpoint import Endpoint
from proxy.runtime.tasks import Tasks
from proxy.snapshots import GatewaySnapshot, GatewayState
from proxy.ssh.handshakes import Handshakes
from proxy.ssh.link import Link
from proxy.ssh.login.dial import Places
from proxy.ssh.supervision.demand import Demand
from proxy.ssh.supervision.dialler import Dialler
from proxy.ssh.supervision.lifetimes import Lifetimes
from proxy.ssh.supervision.links import Links
from proxy.ssh.supervision.report import Report
from proxy.ssh.supervision.retry import Retry
from proxy.ssh.supervision.waiting import Waiting
from proxy.ssh.turns import Turns

REPLACED: Final = LinkReplaced.reason
"""The reason for `reconnects` if a link was replaced before it ended."""


class Gateway:
    """A `proxy.relay.interfaces.Way` over SSH. It calls `on_change` after links came up or ended."""

    def __init__(
        self,
        name: str,
        config: GatewayConfig,
        gateways: Mapping[str, GatewayConfig],
        *,
        budget: MemoryBudget,
        turns: Turns,
        record: GatewayRecord,
        handshakes: Handshakes,
        places: Places | None = None,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.config = config
        self._on_change = on_change
        self._report = report = Report(name, record)
        self._links: Links[Link] = Links()
        self._dialler = Dialler(
            name,
            config,
            gateways,
            budget=budget,
            turns=turns,
            handshakes=handshakes,
            report=report,
            places=places,
        )
        self._lifetimes = Lifetimes(
            name,
            config,
            self._links,
            report,
            wanted=lambda: self._wanted_links,
            on_lost=self._link_lost,
            on_change=self._changed,
        )
        self._retry = Retry(report.backoff)
        self._supervisor = Tasks(f"gateway {name}")
        self._waiting = Waiting(f"gateway {name}", self._retry, lambda: self._failure)
        self._wanted = asyncio.Event()
        self._demand = Demand(asyncio.get_running_loop().time())
        self._is_dialling = False
        # On demand, a lost link is dialled again only if clients need it.
        self._lost_reasons: deque[Reason] = deque(maxlen=MOST_CONNECTIONS)
        self._failure: LinkError | None = None
        self._is_closing = False

    def __repr__(self) -> str:
        return f"<Gateway {self.name} {self._report.state} links={self._links}>"

    def start(self) -> None:
        """Start to dial: at once, or on demand."""
        self._report.start()
        if self.config.is_on_demand:
            self._show_state()
        self._wanted.set()
        self._supervisor.keep(self._supervise, name="supervise")

    async def connect(self) -> None:
        """Dial one link, once, for a command that needs no supervision. Raises LinkError."""
        self._link_up(await self._dialler.dial(self), self._links.generation)

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - a budget, not a failure
        """Dial no more, wait up to `timeout` seconds until no channel is left, then close.

        If this is cancelled, it closes at once.
        """
        self._leave()
        try:
            await self._supervisor.close()
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._lifetimes.until_idle()
        finally:
            await self.close()

    async def close(self) -> None:
        """Close every link and wait until they are closed."""
        self._leave()
        await self._supervisor.close()
        await self._lifetimes.close()
        await self._dialler.close()
        self._waiting.changed(is_up=False)

    def _leave(self) -> None:
        """Report nothing more: a new gateway may have this name now."""
        self._is_closing = self._report.is_closing = True

    @property
    def is_up(self) -> bool:
        """Whether at least one link is up."""
        return bool(self._links)

    @property
    def is_idle(self) -> bool:
        """See `proxy.relay.interfaces.Way`."""
        return not self._links and self._state_without_link is not GatewayState.DOWN

    def snapshot(self) -> GatewaySnapshot:
        """For status."""
        failure = self._failure
        return GatewaySnapshot(
            name=self.name,
            state=self._report.state,
            links=tuple(link.snapshot() for link in self._links),
            retiring=tuple(link.snapshot() for link in self._links.retiring),
            wanted=self.config.connections,
            reconnects=self._report.reconnects,
            retry_in=self._retry.seconds,
            reason=failure.reason if failure else "",
            message=str(failure) if failure else "",
            hint=failure.hint if failure else "",
            certificate_expiry=min(self._report.expiries.values(), default=None),
        )

    # -------------------------------------------------------------------------------------------- channels

    @property
    def connect_timeout(self) -> float:
        """See `proxy.relay.interfaces.Way`."""
        return self.config.connect_timeout

    async def open_channel(
        self,
        target: Endpoint,
        *,
        origin: Endpoint,
        hold_until: float,
        answer_by: float = math.inf,
        is_needed: bool = True,
    ) -> Channel:
        """See `proxy.relay.interfaces.Way`.

        If the link ends while the channel is opened, this waits for the next link, until `hold_until`.
        On demand, it waits for up to `connect_timeout` instead.
        """
        loop = asyncio.get_running_loop()
        if self.config.is_on_demand and is_needed:
            hold_until = min(loop.time() + self.config.connect_timeout, answer_by)
            self._demand.update(self._clients + 1, loop.time())
            self._wanted.set()
        while True:
            # The link may be lost before the client that waited for it runs.
            while not self._waiting.up.is_set():
                await self._wait(hold_until, is_needed=is_needed)
            link = self._links.choose(target)
            try:
                seconds = min(self.config.connect_timeout, answer_by - loop.time())
                return await link.open_channel(target, origin=origin, timeout=seconds, is_needed=is_needed)
            except LinkDown:
                if loop.time() >= hold_until:
                    raise
                # Not `await link.closed`: if the first client is cancelled, that would cancel the future for
                # all.
                await asyncio.wait([link.closed], timeout=hold_until - loop.time())

    async def _wait(self, until: float, *, is_needed: bool) -> None:
        if not self.config.is_on_demand:
            await self._waiting.for_link(until)
        elif is_needed:
            await self._waiting.for_dial(until)
        else:
            raise LinkDown(f"gateway {self.name} has no link") from self._failure

    def is_given_up(self, patience: float) -> bool:
        """See `proxy.relay.interfaces.Way`."""
        # On demand, the next client may be the first for a long time.
        return not self.config.is_on_demand and self._waiting.is_given_up(patience)

    # ----------------------------------------------------------------------------------------- supervision

    def sample(self) -> None:
        """Measure how busy each link is, and whether a client is there. The heartbeat calls it about twice a
        second.
        """
        for link in self._links:
            link.sample()
        if self.config.is_on_demand:
            self._retry.end_if_due()
            self._demand.update(self._clients, asyncio.get_running_loop().time())
            if self._links and self._may_close:
                self._close_unused()
            elif not self._links and self._state_without_link is not self._report.state:
                self._changed()

    @property
    def _clients(self) -> int:
        """The clients that wait for a link or have a channel."""
        return self._waiting.count + sum(link.needed for link in chain(self._links, self._links.retiring))

    @property
    def _is_needed(self) -> bool:
        """Whether links should be dialled or replaced."""
        return not self.config.is_on_demand or self._clients > 0

    @property
    def _wanted_links(self) -> int:
        connections = self.config.connections
        return self._demand.links(connections) if self.config.is_on_demand else connections

    @property
    def unused(self) -> float:
        """On demand: for how many seconds there was no client; 0 while there is one, or during a dial."""
        if self._is_dialling or self._is_needed:
            return 0.0
        return self._demand.unused(asyncio.get_running_loop().time())

    @property
    def _may_close(self) -> bool:
        """Whether the links may be closed as unused. Stale links are closed then, and not replaced."""
        return self.unused >= self.config.idle_timeout or bool(self.unused and self._links.stale)

    def _close_unused(self) -> None:
        """Close the links; the next client causes a dial."""
        self._demand.reset()
        why = "to be replaced, and unused" if self._links.stale else "unused"
        self._lifetimes.close_serving(lambda link: LinkClosed(f"link to {link.server} closed: it was {why}"))
        self._changed()

    @property
    def _state_without_link(self) -> GatewayState:
        if not self.config.is_on_demand:
            return GatewayState.DOWN
        is_busy = self._is_dialling or self._is_needed
        if self._waiting.has_failed and (is_busy or self._retry.is_waiting):
            return GatewayState.DOWN
        return GatewayState.CONNECTING if is_busy else GatewayState.IDLE

    def renew(self, why: str) -> None:
        """Begin to replace every link, make before break, and dial now. `why` is for the log.

        Returns at once.
        """
        self._links.renew()
        self._report.replacing(why, links=len(self._links))
        self._dialler.order()
        self.dial_now()
        self._changed()

    def dial_now(self) -> None:
        """Dial now, if the gateway waits for its next dial."""
        self._retry.end_wait()

    def reconfigure(self, config: GatewayConfig, gateways: Mapping[str, GatewayConfig]) -> None:
        """Use other settings for the same server, or files that have changed: links are replaced."""
        self.adjust(config, gateways)
        self._dialler.begin_anew()
        self.renew("configuration")

    def adjust(self, config: GatewayConfig, gateways: Mapping[str, GatewayConfig]) -> None:
        """Use settings that the links can take (`proxy.config.keys.Key.in_place`): they stay.

        With more `connections`, further ones are dialled. With fewer, the oldest retire.
        """
        if not config.is_on_demand and self.config.is_on_demand:  # unused: no outage
            self._waiting.begin_anew()
        self.config = config
        self._dialler.reconfigure(config, gateways)
        self._demand.update(self._clients, asyncio.get_running_loop().time())
        self._lifetimes.reconfigure(config)
        self.dial_now()
        self._changed()

    async def _supervise(self) -> None:
        while True:
            await self._wanted.wait()
            if not self._is_needed or not self._links.lacks(self._wanted_links):
                self._wanted.clear()
            elif self._retry.is_waiting:
                await self._retry.wait()
            else:
                await self._dial_one()

    async def _dial_one(self) -> None:
        generation = self._links.generation
        try:
            link = await self._dial()
        except LinkError as exc:
            self._dial_failed(exc)
            # The dial has used settings that have changed since: try the new ones.
            if generation != self._links.generation:
                self.dial_now()
            else:
                self._waiting.dialled(exc)
        else:
            self._link_up(link, generation)
            self._waiting.dialled(None)

    async def _dial(self) -> Link:
        self._is_dialling = True
        if self.config.is_on_demand:
            self._show_state()
        try:
            return await self._dialler.dial(self)
        finally:
            self._is_dialling = False

    def _dial_failed(self, exc: LinkError) -> None:
        if HostKeyRevoked in {type(exc), type(exc.__cause__)}:
            self._lifetimes.close_untrusted(exc)
        if not self._links:
            self._waiting.dial_failed()
        delay = self._retry.dial_failed(exc.retry)
        self._report.dial_failed(exc, self._failure, delay=delay, kept=len(self._links))
        self._failure = exc
        self._changed()

    def _link_up(self, link: Link, generation: int) -> None:
        self._failure = None
        has_replaced = self._lifetimes.add(link, generation)
        instead_of = (
            self._lost_reasons.popleft() if self._lost_reasons else REPLACED if has_replaced else None
        )
        self._report.link_up(link, instead_of=instead_of)
        self._changed()

    def _link_lost(self, link: Link, error: LinkError) -> None:
        self._lost_reasons.append(error.reason)
        # If the gateway waits already, because another link of this outage ended or a key was refused, that
        # wait stays. The error of a refused key stays, too.
        if not (self._retry.is_waiting or isinstance(error, LinkClosed) or self._is_closing):
            self._retry.link_lost(link.age, is_unused=link.is_unused)
        if self._failure is None or self._failure.retry is not RetryClass.SLOW:
            self._failure = error

    def _changed(self) -> None:
        """After links came up or ended: wake the supervisor and waiting clients, update state and metrics."""
        self._wanted.set()
        self._waiting.changed(is_up=bool(self._links))
        self._show_state()
        if not self._is_closing:
            self._on_change()

    def _show_state(self) -> None:
        without_link = self._state_without_link
        if without_link is GatewayState.IDLE and not (self._links or self._waiting.has_failed):
            self._failure = None  # no client needs the lost link
        self._report.changed(
            self._links,
            wanted=self._wanted_links,
            is_failing=self._failure is not None,
            without_link=without_link,
        )
