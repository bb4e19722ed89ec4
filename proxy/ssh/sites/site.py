"""One site. The site's own ssh client makes its links; kubemux does not dial it.

Each login of the site is a link. kubemux uses the link after the site has registered a forward, and kubemux
has opened one channel through it as a test. If a new link exceeds `connections`, the oldest link is retired.
So a site whose link is dead can log in again before kubemux notices that the link is dead.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable
from typing import Final

from proxy.config.model import SiteConfig
from proxy.errors import ChannelProhibited, ForwardRefused, LinkClosed, LinkDown, LinkError
from proxy.errors.reasons import Reason
from proxy.metrics.records import GatewayRecord
from proxy.relay.budget import MemoryBudget
from proxy.relay.interfaces import Channel, OpenRequest
from proxy.runtime.endpoint import Endpoint
from proxy.snapshots import SiteLinkSnapshot, SiteSnapshot
from proxy.ssh.server.session import Guest, Session
from proxy.ssh.sites.permit import Permit
from proxy.ssh.sites.presence import Presence
from proxy.ssh.sites.remedies import remedy
from proxy.ssh.sites.site_link import SiteLink
from proxy.ssh.sites.visitor import Visitor
from proxy.ssh.sites.visitors import Visitors
from proxy.ssh.supervision.lifetimes import Lifetimes
from proxy.ssh.supervision.links import Links
from proxy.ssh.supervision.report import Report
from proxy.ssh.supervision.retry import Retry
from proxy.ssh.supervision.waiting import Waiting
from proxy.ssh.turns import Turns

_NEVER_DIALS: Final = Retry(lambda _: None)
FORWARDS_S: Final = 2.0
"""If an ssh has requested no forward this many seconds after its login, it will not request one."""


class Site:
    """A `proxy.relay.interfaces.Way`. It calls `on_change` after a link begins to serve or ends."""

    def __init__(
        self,
        name: str,
        config: SiteConfig,
        *,
        budget: MemoryBudget,
        turns: Turns,
        record: GatewayRecord,
        is_taken: Callable[[str], bool],
        on_open: Callable[[Session, OpenRequest], None] | None = None,
        on_refused: Callable[[Session, Reason, str], None] = lambda *_: None,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """`is_taken(name)` says whether another site has this name. `on_open` is called with each channel
        request of the site.
        """
        self.name = name
        self.config = config
        self.permit = Permit(name, config)
        """What may be asked of it."""
        self._loop = asyncio.get_running_loop()
        self._on_change = on_change
        self._report = report = Report(name, record, remedy=remedy)
        self._links: Links[SiteLink] = Links()
        self._lifetimes = Lifetimes(
            name,
            config,
            self._links,
            report,
            wanted=lambda: self.config.connections,
            on_lost=self._link_lost,
            on_change=self._changed,
        )
        self._waiting = Waiting(
            f"site {name}",
            _NEVER_DIALS,
            lambda: self._failure,
            hint=f"kubemux site show {name} says since when, and why",
        )
        self._visitors = Visitors(
            self, budget=budget, turns=turns, is_taken=is_taken, on_open=on_open, on_refused=on_refused
        )
        self._failure: LinkError | None = None
        self._presence = Presence(name)
        self._lost_reason: Reason | None = None
        self._is_closing = False
        self.is_awake = True
        """Whether `sample` has something to do: most of ten thousand sites are idle."""

    def __repr__(self) -> str:
        return f"<Site {self.name} {self._report.state} links={self._links}>"

    def start(self) -> None:
        """Accept logins of the site from now on."""
        self._report.start()
        self._changed()

    # --------------------------------------------------------------------------------------------- logins

    def logged_in(self, session: Session) -> Guest:
        """Make a link for a login. Call this as soon as the login is complete."""
        self.is_awake = True
        self._report.is_quiet = self._presence.logged_in()
        return self._visitors.add(session)

    def serves(self, visitor: Visitor) -> None:
        """See `proxy.ssh.sites.visitor.VisitedSite`: the link can be used."""
        self._visitors.discard(visitor)
        self._failure = None
        has_replaced = self._lifetimes.add(visitor.link, self._links.generation)
        instead_of, self._lost_reason = self._lost_reason or (Reason.REPLACED if has_replaced else None), None
        self._report.link_up(visitor.link, instead_of=instead_of)
        self._changed()

    def serves_no_longer(self, visitor: Visitor) -> bool:
        """See `proxy.ssh.sites.visitor.Host`: the link has no forward any more."""
        if not self._lifetimes.release(visitor.link):
            return False
        self._report.is_quiet = self._presence.logged_in()  # a site that does this again and again flaps
        self._report.link_released(visitor.link, "its ssh has cancelled its last forward")
        self._visitors.keep(visitor)
        self._changed()
        return True

    def ended_unused(self, visitor: Visitor, error: LinkError) -> None:
        """See `proxy.ssh.sites.visitor.VisitedSite`: the link has ended before it could be used."""
        self._visitors.discard(visitor)
        if not isinstance(error, LinkClosed):
            self._failure = error
        if isinstance(error, ForwardRefused):
            self.refused(error.reason, str(error))
        self._report.link_ended(visitor.link, error)
        self._changed()

    def refused(self, reason: Reason, message: str) -> None:
        """Keep the last refusal of a login or a forward for the status."""
        self._presence.refused(reason, message)

    # -------------------------------------------------------------------------------------------- channels

    @property
    def connect_timeout(self) -> float:
        """See `proxy.relay.interfaces.Way`."""
        return self.config.connect_timeout

    @property
    def is_up(self) -> bool:
        """Whether at least one link serves."""
        return bool(self._links)

    @property
    def is_idle(self) -> bool:
        """See `proxy.relay.interfaces.Way`. A site never closes its links because they are idle."""
        return False

    def is_given_up(self, patience: float) -> bool:
        """See `proxy.relay.interfaces.Way`."""
        return self._waiting.is_given_up(patience)

    async def open_channel(
        self,
        target: Endpoint,
        *,
        origin: Endpoint,
        hold_until: float,
        answer_by: float = math.inf,
        is_needed: bool = True,
    ) -> Channel:
        """See `proxy.relay.interfaces.Way`. Also raises ChannelProhibited if `permit` does not allow the
        target.
        """
        permit, loop = self.permit, self._loop
        permit.require(target)
        while True:
            while not self._waiting.up.is_set():  # the link may be lost before this task runs
                await self._waiting.for_link(hold_until)
            link = self._choose(target)
            seconds = min(self.config.connect_timeout, answer_by - loop.time())
            try:
                channel = await link.reach(target, origin=origin, timeout=seconds, is_needed=is_needed)
            except LinkDown:
                if loop.time() >= hold_until:
                    raise
                await asyncio.wait([link.closed], timeout=hold_until - loop.time())
            else:
                if self.permit is not permit:
                    self._recheck(channel, target)
                return channel

    def _recheck(self, channel: Channel, target: Endpoint) -> None:
        """Abort the channel if a reload has narrowed `permit` while it was opened."""
        try:
            self.permit.require(target)
        except ChannelProhibited:
            channel.abort()
            raise

    def _choose(self, target: Endpoint) -> SiteLink:
        self.is_awake = True
        link = self._links.choose(target)
        if link.forwards.can_reach(target):
            return link
        # Each link has its own forwards: the site may run several ssh processes with different -R options.
        return next((other for other in self._links if other.forwards.can_reach(target)), link)

    # ----------------------------------------------------------------------------------------- supervision

    def sample(self) -> None:
        """Sample how busy each link is. The heartbeat calls this about twice a second while `is_awake`."""
        for link in self._links:
            link.sample()
        if self._presence.has_calmed():
            self._report.is_quiet = False
        self.is_awake = not (self._presence.is_steady and all(link.is_still for link in self._links))

    @property
    def is_connected(self) -> bool:
        """For metrics: whether a link is up, or was up a moment ago."""
        return self._presence.is_connected

    def snapshot(self) -> SiteSnapshot:
        """For the status. The caller fills in the numbers of connections and bytes."""
        presence = self._presence
        failure = presence.why_away(self._failure, calls_only=self._calls_only())
        return SiteSnapshot(
            name=self.name,
            state=self._report.state,
            links=_shown(self._links),
            retiring=_shown(self._links.retiring),
            callers=_shown(visitor.link for visitor in self._visitors),
            most=self.config.connections,
            connected=presence.connected,
            away=presence.away,
            reconnects=self._report.reconnects,
            reason=failure.reason if failure else "",
            message=str(failure) if failure else "",
            hint="" if failure is None else remedy(failure),
            refused=presence.refusal,
            connections=0,
            connections_total=0,
            bytes_to_site=0,
            bytes_from_site=0,
        )

    def _calls_only(self) -> bool:
        """Whether the site has a login that has requested no forward, although there was time for that."""
        links = [visitor.link for visitor in self._visitors]
        return any(link.age > FORWARDS_S and not len(link.forwards) for link in links)

    def reconfigure(self, config: SiteConfig) -> None:
        """Use other settings. The links stay; the SSH server checks whether their keys are still accepted."""
        has_new_keepalive = config.keepalive != self.config.keepalive
        self.config = config
        self.permit = Permit(self.name, config)
        links = (*self._links, *self._links.retiring, *(visitor.link for visitor in self._visitors))
        for link in links:
            link.forwards.most = config.max_forwards
        if has_new_keepalive:
            for visitor in self._visitors:
                visitor.measure()
        self._lifetimes.reconfigure(config)
        self._changed()

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - a budget, not a failure
        """Wait up to `timeout` seconds until no channel is open, then close."""
        self._stop_reporting()
        try:
            await asyncio.wait_for(self._lifetimes.until_idle(), timeout)
        except TimeoutError:
            pass
        finally:
            await self.close()

    async def close(self) -> None:
        """End every link and wait until they are closed."""
        self._stop_reporting()
        await self._visitors.close()
        await self._lifetimes.close()
        await self._visitors.stop()
        self._waiting.changed(is_up=False)

    def _stop_reporting(self) -> None:
        """After a reload, another site may have this name and its metrics."""
        self._is_closing = self._report.is_closing = True

    def _link_lost(self, link: SiteLink, error: LinkError) -> None:
        del link
        self._lost_reason = error.reason
        self._failure = error
        if isinstance(error, ForwardRefused):  # a reload permits one of its forwards no longer
            self.refused(error.reason, str(error))

    def _changed(self) -> None:
        self.is_awake = True
        self._presence.changed(is_up=bool(self._links))
        self._waiting.changed(is_up=bool(self._links))
        if not self._links:
            # kubemux cannot dial a site. So a client waits once; after that wait, clients fail at once.
            self._waiting.dial_failed()
        self._report.changed(
            self._links,
            wanted=1,  # `connections` is a maximum for a site: one link is enough to be up
            is_failing=self._failure is not None,
            without_link=self._presence.without_link,
        )
        if not self._is_closing:
            self._on_change()


def _shown(links: Iterable[SiteLink]) -> tuple[SiteLinkSnapshot, ...]:
    return tuple(link.snapshot() for link in links)
