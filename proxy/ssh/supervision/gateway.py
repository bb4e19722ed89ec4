"""One gateway: keeps its links up and chooses one for each new channel.

One supervisor task dials, one attempt at a time. So a wrong key is tried once, not once for each link, and
the second link is dialled as soon as the first is up. Clients that arrive while no link is up wait for `_up`
until their own deadline.

`dialler` makes the links, `retry` decides when, `lifetimes` watches and replaces them until they have ended,
and `links` decides which of them get new channels.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from proxy.config.model import GatewayConfig
from proxy.errors import HostKeyRevoked, LinkClosed, LinkDown, LinkError, LinkReplaced, RetryClass
from proxy.errors.reasons import Reason
from proxy.metrics import Metrics
from proxy.relay.budget import MemoryBudget
from proxy.relay.interfaces import Channel
from proxy.runtime.endpoint import Endpoint
from proxy.runtime.tasks import Tasks
from proxy.snapshots import GatewaySnapshot
from proxy.ssh.governor import Outage
from proxy.ssh.handshakes import Handshakes
from proxy.ssh.link import Link
from proxy.ssh.login.dial import Places
from proxy.ssh.supervision.dialler import Dialler
from proxy.ssh.supervision.lifetimes import Lifetimes
from proxy.ssh.supervision.links import Links
from proxy.ssh.supervision.report import Report
from proxy.ssh.supervision.retry import Retry
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
        metrics: Metrics,
        handshakes: Handshakes,
        places: Places | None = None,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.config = config
        self._on_change = on_change
        self._report = report = Report(name, metrics)
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
            name, config, self._links, report, on_lost=self._link_lost, on_change=self._changed
        )
        self._retry = Retry(report.backoff)
        self._supervisor = Tasks(f"gateway {name}")
        self._up = asyncio.Event()
        self._wanted = asyncio.Event()
        self._outage = Outage(asyncio.get_running_loop().time())
        self._lost_reasons: list[Reason] = []
        self._failure: LinkError | None = None
        self._is_closing = False

    def __repr__(self) -> str:
        return f"<Gateway {self.name} {self._report.state} links={self._links}>"

    def start(self) -> None:
        """Start to dial."""
        self._report.start()
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
        self._up.clear()

    def _leave(self) -> None:
        """Report nothing more: a new gateway may have this name now."""
        self._is_closing = self._report.is_closing = True

    @property
    def is_up(self) -> bool:
        """Whether at least one link is up."""
        return bool(self._links)

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

    async def open_channel(self, target: Endpoint, *, origin: Endpoint, hold_until: float) -> Channel:
        """See `proxy.relay.interfaces.Way`.

        If the link ends while the channel is opened, this waits for the next link, until `hold_until`.
        """
        loop = asyncio.get_running_loop()
        while True:
            while not self._up.is_set():  # the link may be lost before the client that waited for it runs
                await self._wait_for_link(hold_until)
            link = self._links.choose(target)
            try:
                return await link.open_channel(target, origin=origin, timeout=self.config.connect_timeout)
            except LinkDown:
                if loop.time() >= hold_until:
                    raise
                # Not `await link.closed`: if the first client is cancelled, that would cancel the future for
                # all.
                await asyncio.wait([link.closed], timeout=hold_until - loop.time())

    async def _wait_for_link(self, hold_until: float) -> None:
        now = asyncio.get_running_loop().time()
        # Not the failure itself: `status` shows it in the line of the gateway, and newer than here.
        if self._outage.outlasts(hold_until - now, now):
            seconds = self._outage.seconds(now)
            raise LinkDown(
                f"gateway {self.name} has no link, and has had none for {seconds:.0f} s"
            ) from self._failure
        try:
            async with asyncio.timeout_at(hold_until):
                await self._up.wait()
        except TimeoutError:
            raise LinkDown(f"gateway {self.name} has no link") from self._failure

    def is_given_up(self, patience: float) -> bool:
        """See `proxy.relay.interfaces.Way`."""
        return self._outage.outlasts(patience, asyncio.get_running_loop().time())

    # ----------------------------------------------------------------------------------------- supervision

    def sample(self) -> None:
        """Measure how busy each link is. The heartbeat calls it about twice a second."""
        for link in self._links:
            link.sample()

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
        self.config = config
        self._dialler.reconfigure(config, gateways)
        self._lifetimes.reconfigure(config)
        self.renew("configuration")

    async def _supervise(self) -> None:
        while True:
            await self._wanted.wait()
            if not self._links.lacks(self.config.connections):
                self._wanted.clear()
            elif self._retry.is_waiting:
                await self._retry.wait()
            else:
                await self._dial_one()

    async def _dial_one(self) -> None:
        generation = self._links.generation
        try:
            link = await self._dialler.dial(self)
        except LinkError as exc:
            self._dial_failed(exc)
            # The dial has used settings that have changed since: try the new ones.
            if generation != self._links.generation:
                self.dial_now()
        else:
            self._link_up(link, generation)

    def _dial_failed(self, exc: LinkError) -> None:
        if HostKeyRevoked in {type(exc), type(exc.__cause__)}:
            self._lifetimes.close_untrusted(exc)
        self._outage.has_failed = not self._links
        delay = self._retry.dial_failed(exc.retry)
        self._report.dial_failed(exc, self._failure, delay=delay, kept=len(self._links))
        self._failure = exc
        self._changed()

    def _link_up(self, link: Link, generation: int) -> None:
        self._failure = None
        has_replaced = self._lifetimes.add(link, generation)
        instead_of = self._lost_reasons.pop(0) if self._lost_reasons else REPLACED if has_replaced else None
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
        self._outage.link(asyncio.get_running_loop().time(), is_up=bool(self._links))
        if self._links:
            self._up.set()
        else:
            self._up.clear()
        self._report.changed(
            self._links, wanted=self.config.connections, is_failing=self._failure is not None
        )
        if not self._is_closing:
            self._on_change()
