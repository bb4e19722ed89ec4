"""One gateway: a way that chooses one of its links for each new channel. `supervisor` keeps the links up.

Clients that arrive while no link is up wait (`waiting`) until their own deadline.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping

from proxy.config.gateways import GatewayConfig
from proxy.errors import LinkDown
from proxy.metrics.records import GatewayRecord
from proxy.relay.budget import MemoryBudget
from proxy.relay.interfaces import Channel, Way
from proxy.runtime.endpoint import Endpoint
from proxy.snapshots import GatewaySnapshot, GatewayState
from proxy.ssh.handshakes import Handshakes
from proxy.ssh.link import Link
from proxy.ssh.login.dial import Places
from proxy.ssh.supervision.dialler import Dialler
from proxy.ssh.supervision.links import Links
from proxy.ssh.supervision.report import Report
from proxy.ssh.supervision.supervisor import Supervisor
from proxy.ssh.turns import Turns


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
        self._supervisor = Supervisor(name, config, self._links, self._dialler, report, on_change)
        self._waiting = self._supervisor.waiting
        self._successor: Way | None = None

    def __repr__(self) -> str:
        return f"<Gateway {self.name} {self._report.state} links={self._links}>"

    def start(self) -> None:
        """Start to dial: at once, or on demand."""
        self._supervisor.start()

    async def connect(self) -> None:
        """Dial one link, once, for a command that needs no supervision. Raises LinkError."""
        await self._supervisor.connect()

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - a budget, not a failure
        """Stop dialling, wait up to `timeout` seconds until no channel is left, then close.

        If this is cancelled, it closes at once.
        """
        await self._supervisor.drain(timeout)

    def give_way(self, successor: Way) -> None:
        """Let the clients that wait for a link wait for one of `successor`, which replaces this gateway."""
        self._successor = successor
        self._waiting.end()

    async def close(self) -> None:
        """Close every link and wait until they are closed."""
        await self._supervisor.close()

    @property
    def is_up(self) -> bool:
        """Whether at least one link is up."""
        return bool(self._links)

    @property
    def is_idle(self) -> bool:
        """See `proxy.relay.interfaces.Way`."""
        return not self._links and self._supervisor.state_without_link is not GatewayState.DOWN

    def snapshot(self) -> GatewaySnapshot:
        """For status."""
        failure = self._supervisor.failure
        return GatewaySnapshot(
            name=self.name,
            state=self._report.state,
            links=tuple(link.snapshot() for link in self._links),
            retiring=tuple(link.snapshot() for link in self._links.retiring),
            wanted=self.config.connections,
            reconnects=self._report.reconnects,
            retry_in=self._supervisor.retry.seconds,
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
        until = hold_until
        if self.config.is_on_demand and is_needed:
            until = min(loop.time() + self.config.connect_timeout, answer_by)
            self._supervisor.client_comes()
        while True:
            # The link may be lost before the client that waited for it runs.
            while not self._waiting.up.is_set():
                if self._successor is not None:
                    return await self._successor.open_channel(
                        target,
                        origin=origin,
                        hold_until=hold_until,
                        answer_by=answer_by,
                        is_needed=is_needed,
                    )
                await self._wait(until, is_needed=is_needed)
            link = self._links.choose(target)
            try:
                seconds = min(self.config.connect_timeout, answer_by - loop.time())
                return await link.open_channel(target, origin=origin, timeout=seconds, is_needed=is_needed)
            except LinkDown:
                if loop.time() >= until:
                    raise
                # Not `await link.closed`: if the first client is cancelled, that would cancel the future for
                # all.
                await asyncio.wait([link.closed], timeout=until - loop.time())

    async def _wait(self, until: float, *, is_needed: bool) -> None:
        if not self.config.is_on_demand:
            await self._waiting.for_link(until)
        elif is_needed:
            await self._waiting.for_dial(until)
        else:
            raise LinkDown(f"gateway {self.name} has no link") from self._supervisor.failure

    def is_given_up(self, patience: float) -> bool:
        """See `proxy.relay.interfaces.Way`."""
        # On demand, the next client may be the first for a long time.
        return not self.config.is_on_demand and self._waiting.is_given_up(patience)

    # ----------------------------------------------------------------------------------------- supervision

    def sample(self) -> None:
        """Sample how busy each link is, and whether clients use it. Called about twice a second."""
        self._supervisor.sample()

    @property
    def unused(self) -> float:
        """On demand: for how many seconds there was no client; 0 while there is one, or during a dial."""
        return self._supervisor.unused

    def renew(self, why: str) -> None:
        """Begin to replace every link, make before break, and dial now. `why` is for the log.

        Returns at once.
        """
        self._links.renew()
        self._report.replacing(why, links=len(self._links))
        self._dialler.order()
        self._supervisor.dial_now()
        self._supervisor.changed()

    def reconfigure(self, config: GatewayConfig, gateways: Mapping[str, GatewayConfig]) -> None:
        """Use other settings for the same server, or files that have changed: links are replaced."""
        self.adjust(config, gateways)
        self._dialler.begin_anew()
        self.renew("configuration")

    def adjust(self, config: GatewayConfig, gateways: Mapping[str, GatewayConfig]) -> None:
        """Use settings that the links can take (`proxy.config.keys.Key.in_place`): they stay.

        With more `connections`, further ones are dialled. With fewer, the oldest retire.
        """
        self.config = config
        self._dialler.reconfigure(config, gateways)
        self._supervisor.reconfigure(config)
