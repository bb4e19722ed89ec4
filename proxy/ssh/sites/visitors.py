"""The logins of a site that have no forward (yet), or whose forward is being tested."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from itertools import count
from typing import Final

from proxy.errors.reasons import Reason
from proxy.relay.budget import MemoryBudget
from proxy.relay.interfaces import OpenRequest
from proxy.runtime.tasks import Tasks
from proxy.ssh.open_requests import at_most
from proxy.ssh.server.session import Session
from proxy.ssh.sites.forwards import Forwards
from proxy.ssh.sites.site_link import SiteLink
from proxy.ssh.sites.visitor import VisitedSite, Visitor
from proxy.ssh.turns import Turns

MOST_VISITORS: Final = 8
"""How many links of a site may be without a forward. Such a link can still open channels, so it is not closed
at once. But each link needs a file descriptor of the daemon, and no site may use them up.
"""


class Visitors:
    """Those of one site, oldest first."""

    def __init__(
        self,
        site: VisitedSite,
        *,
        budget: MemoryBudget,
        turns: Turns,
        is_taken: Callable[[str], bool],
        on_open: Callable[[Session, OpenRequest], None] | None,
        on_refused: Callable[[Session, Reason, str], None],
    ) -> None:
        """`is_taken(name)` says whether another site has this name. `on_open` is called with each channel
        request of the site.
        """
        self._site = site
        self._budget = budget
        self._turns = turns
        self._is_taken = is_taken
        self._on_open = on_open
        self._on_refused = on_refused
        self._visitors: dict[Visitor, None] = {}
        self._numbers = count(1)
        self._tasks = Tasks(f"site {site.name}")

    def __repr__(self) -> str:
        return f"<Visitors of {self._site.name} {len(self._visitors)}>"

    def __iter__(self) -> Iterator[Visitor]:
        return iter(tuple(self._visitors))

    def add(self, session: Session) -> Visitor:
        """Make a link for a login."""
        visitor = Visitor(self._site, session, self._link(session), self._tasks)
        self.keep(visitor)
        visitor.start()
        return visitor

    def keep(self, visitor: Visitor) -> None:
        """Add a link that has no forward. If there are MOST_VISITORS, it replaces one of them."""
        if len(self._visitors) >= MOST_VISITORS:
            idlest = min(self._visitors, key=lambda one: one.link.load)  # the oldest of equally idle ones
            del self._visitors[idlest]
            idlest.replaced(f"the site has made {MOST_VISITORS} more connections that register no forward")
        self._visitors[visitor] = None

    def _link(self, session: Session) -> SiteLink:
        site, on_open = self._site, self._on_open
        return SiteLink(
            session.conn,
            Forwards(site.name, most=site.config.max_forwards, is_taken=self._is_taken),
            site=site.name,
            address=session.visit.address,
            key=session.login.fingerprint if session.login else "",
            budget=self._budget,
            turns=self._turns,
            name=f"{site.name}/{next(self._numbers)}",
            on_open=(lambda request: on_open(session, request)) if on_open else None,
            on_refused=lambda reason, why: self._on_refused(session, reason, why),
            limit=lambda count: at_most(site.config.max_channels, f"sites.{site.name}.max_channels")(count),
        )

    def discard(self, visitor: Visitor) -> None:
        """A link serves, or has ended."""
        self._visitors.pop(visitor, None)

    async def close(self) -> None:
        """End their links."""
        await asyncio.gather(*(visitor.link.close() for visitor in self))

    async def stop(self) -> None:
        """End their tasks, also those that end the connections of links that have served."""
        await self._tasks.close()
