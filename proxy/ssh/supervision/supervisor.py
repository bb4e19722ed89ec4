"""Keeps the links of one gateway up.

One task dials, one attempt at a time. So a wrong key is tried once, not once for each link, and the second
link is dialled as soon as the first is up.

A gateway with `dial: on_demand` has links only while clients use it, and for `idle_timeout` after that.
`demand` decides how many.

`dialler` makes the links, `retry` decides when, `lifetimes` watches and replaces them until they have ended,
and `links` decides which of them get new channels.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import chain
from typing import Final

from proxy.config.gateways import MOST_CONNECTIONS, GatewayConfig
from proxy.errors import HostKeyRevoked, LinkClosed, LinkError, LinkReplaced, RetryClass
from proxy.errors.reasons import Reason
from proxy.runtime.tasks import Tasks
from proxy.snapshots import GatewayState
from proxy.ssh.link import Link
from proxy.ssh.supervision.demand import Demand
from proxy.ssh.supervision.dialler import Dialler
from proxy.ssh.supervision.lifetimes import Lifetimes
from proxy.ssh.supervision.links import Links
from proxy.ssh.supervision.report import Report
from proxy.ssh.supervision.retry import Retry
from proxy.ssh.supervision.waiting import Waiting

REPLACED: Final = LinkReplaced.reason
"""The reason for `reconnects` if a link was replaced before it ended."""


class Supervisor:
    """Dials the links of one gateway, closes and counts them. It calls `on_change` after links came up or
    ended.
    """

    def __init__(
        self,
        name: str,
        config: GatewayConfig,
        links: Links[Link],
        dialler: Dialler,
        report: Report,
        on_change: Callable[[], None],
    ) -> None:
        self._config = config
        self._links = links
        self._dialler = dialler
        self._report = report
        self._on_change = on_change
        self._lifetimes = Lifetimes(
            name,
            config,
            links,
            report,
            wanted=lambda: self._wanted_links,
            on_lost=self._link_lost,
            on_change=self.changed,
        )
        self.retry = Retry(report.backoff)
        self.waiting = Waiting(f"gateway {name}", self.retry, lambda: self.failure)
        """The clients that wait for a link."""
        self.failure: LinkError | None = None
        """Why the last dial has failed, or the last link was lost."""
        self._tasks = Tasks(f"gateway {name}")
        self._wanted = asyncio.Event()
        self._demand = Demand(asyncio.get_running_loop().time())
        self._is_dialling = False
        # On demand, a lost link is dialled again only if clients need it.
        self._lost_reasons: deque[Reason] = deque(maxlen=MOST_CONNECTIONS)
        self._is_closing = False

    def __repr__(self) -> str:
        return f"<Supervisor {self._report.state} links={self._links}>"

    def start(self) -> None:
        """Start to dial: at once, or on demand."""
        self._report.start()
        if self._config.is_on_demand:
            self._show_state()
        self._wanted.set()
        self._tasks.keep(self._supervise, name="supervise")

    async def connect(self) -> None:
        """Dial one link, once, for a command that needs no supervision. Raises LinkError."""
        self._link_up(await self._dialler.dial(self), self._links.generation)

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - a budget, not a failure
        """Stop dialling, wait up to `timeout` seconds until no channel is left, then close.

        If this is cancelled, it closes at once.
        """
        self._stop_reporting()
        try:
            await self._tasks.close()
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._lifetimes.until_idle()
        finally:
            await self.close()

    async def close(self) -> None:
        """Close every link and wait until they are closed."""
        self._stop_reporting()
        await self._tasks.close()
        await self._lifetimes.close()
        await self._dialler.close()
        self.waiting.changed(is_up=False)

    def _stop_reporting(self) -> None:
        """A new gateway may have this name and its metrics now."""
        self._is_closing = self._report.is_closing = True

    def reconfigure(self, config: GatewayConfig) -> None:
        """Use settings that the links can take (`Gateway.adjust`)."""
        if not config.is_on_demand and self._config.is_on_demand:  # no client used it: no outage
            self.waiting.begin_anew()
        self._config = config
        self._demand.update(self._clients, asyncio.get_running_loop().time())
        self._lifetimes.reconfigure(config)
        self.dial_now()
        self.changed()

    # ---------------------------------------------------------------------------------------------- demand

    def client_comes(self) -> None:
        """On demand: a client asks for a channel."""
        self._demand.update(self._clients + 1, asyncio.get_running_loop().time())
        self._wanted.set()

    def sample(self) -> None:
        """Sample how busy each link is, and whether clients use it."""
        for link in self._links:
            link.sample()
        if self._config.is_on_demand:
            self.retry.end_if_due()
            self._demand.update(self._clients, asyncio.get_running_loop().time())
            if self._links and self._may_close:
                self._close_unused()
            elif not self._links and self.state_without_link is not self._report.state:
                self.changed()

    @property
    def _clients(self) -> int:
        """The clients that wait for a link or have a channel."""
        return self.waiting.count + sum(link.needed for link in chain(self._links, self._links.retiring))

    @property
    def _is_needed(self) -> bool:
        """Whether links should be dialled or replaced."""
        return not self._config.is_on_demand or self._clients > 0

    @property
    def _wanted_links(self) -> int:
        connections = self._config.connections
        return self._demand.links(connections) if self._config.is_on_demand else connections

    @property
    def unused(self) -> float:
        """On demand: for how many seconds there was no client; 0 while there is one, or during a dial."""
        if self._is_dialling or self._is_needed:
            return 0.0
        return self._demand.unused(asyncio.get_running_loop().time())

    @property
    def _may_close(self) -> bool:
        """Whether the links may be closed as unused. Stale links are closed then, and not replaced."""
        return self.unused >= self._config.idle_timeout or bool(self.unused and self._links.stale)

    def _close_unused(self) -> None:
        """Close the links; the next client causes a dial."""
        self._demand.reset()
        why = "to be replaced, and unused" if self._links.stale else "unused"
        self._lifetimes.close_serving(lambda link: LinkClosed(f"link to {link.server} closed: it was {why}"))
        self.changed()

    @property
    def state_without_link(self) -> GatewayState:
        """What the gateway is if it has no link."""
        if not self._config.is_on_demand:
            return GatewayState.DOWN
        is_busy = self._is_dialling or self._is_needed
        if self.waiting.has_failed and (is_busy or self.retry.is_waiting):
            return GatewayState.DOWN
        return GatewayState.CONNECTING if is_busy else GatewayState.IDLE

    # --------------------------------------------------------------------------------------------- dialling

    def dial_now(self) -> None:
        """Dial now, if the gateway waits for its next dial."""
        self.retry.end_wait()

    async def _supervise(self) -> None:
        while True:
            await self._wanted.wait()
            if not self._is_needed or not self._links.lacks(self._wanted_links):
                self._wanted.clear()
            elif self.retry.is_waiting:
                await self.retry.wait()
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
                self.waiting.dialled(exc)
        else:
            self._link_up(link, generation)
            self.waiting.dialled(None)

    async def _dial(self) -> Link:
        self._is_dialling = True
        if self._config.is_on_demand:
            self._show_state()
        try:
            return await self._dialler.dial(self)
        finally:
            self._is_dialling = False

    def _dial_failed(self, exc: LinkError) -> None:
        if HostKeyRevoked in {type(exc), type(exc.__cause__)}:
            self._lifetimes.close_untrusted(exc)
        if not self._links:
            self.waiting.dial_failed()
        delay = self.retry.dial_failed(exc.retry)
        self._report.dial_failed(exc, self.failure, delay=delay, kept=len(self._links))
        self.failure = exc
        self.changed()

    def _link_up(self, link: Link, generation: int) -> None:
        self.failure = None
        has_replaced = self._lifetimes.add(link, generation)
        instead_of = (
            self._lost_reasons.popleft() if self._lost_reasons else REPLACED if has_replaced else None
        )
        self._report.link_up(link, instead_of=instead_of)
        self.changed()

    def _link_lost(self, link: Link, error: LinkError) -> None:
        self._lost_reasons.append(error.reason)
        # If the gateway waits already, because another link of this outage ended or a key was refused, that
        # wait stays. The error of a refused key stays, too.
        if not (self.retry.is_waiting or isinstance(error, LinkClosed) or self._is_closing):
            self.retry.link_lost(link.age, is_unused=link.is_unused)
        if self.failure is None or self.failure.retry is not RetryClass.SLOW:
            self.failure = error

    def changed(self) -> None:
        """After links came up or ended: wake the supervisor and waiting clients, update state and metrics."""
        self._wanted.set()
        self.waiting.changed(is_up=bool(self._links))
        self._show_state()
        if not self._is_closing:
            self._on_change()

    def _show_state(self) -> None:
        without_link = self.state_without_link
        if without_link is GatewayState.IDLE and not (self._links or self.waiting.has_failed):
            self.failure = None  # no client needs the lost link
        self._report.changed(
            self._links,
            wanted=self._wanted_links,
            is_failing=self.failure is not None,
            without_link=without_link,
        )
