"""A login of a site while its link cannot be used: kubemux waits for the first forward, and tests a channel.

If the site cancels its last forward, kubemux waits again.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import structlog

from proxy.config.model import SiteConfig
from proxy.errors import (
    ChannelError,
    ChannelTimeout,
    ForwardRefused,
    KeepaliveTimeout,
    LinkDown,
    LinkError,
    LinkReplaced,
)
from proxy.runtime.endpoint import Endpoint
from proxy.runtime.tasks import Tasks
from proxy.ssh import serving
from proxy.ssh.server.session import Guest, Session
from proxy.ssh.sites.site_link import SiteLink

log = structlog.get_logger("kubemux.site")


class VisitedSite(Protocol):
    """The site, as its logins see it."""

    name: str
    config: SiteConfig

    def serves(self, visitor: Visitor) -> None:
        """The link can be used."""

    def serves_no_longer(self, visitor: Visitor) -> bool:
        """The link has no forward any more. Returns False if it did not serve."""

    def ended_unused(self, visitor: Visitor, error: LinkError) -> None:
        """The link has ended before it could be used."""


class Visitor(Guest):
    """One login of the site, and the link that is made from it."""

    def __init__(self, site: VisitedSite, session: Session, link: SiteLink, tasks: Tasks) -> None:
        """`tasks` are the site's."""
        self.link = link
        self._site = site
        self._session = session
        self._tasks = tasks
        self._trying: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Visitor {self.link}>"

    def start(self) -> None:
        """Answer its requests for forwards, and end the link if the site misses its keepalives."""
        serving.on_forward(self._session.conn, self._register, self._cancel)
        self._wait()

    def _wait(self) -> None:
        self.measure()
        self._watching = self._tasks.spawn(self._watch(), name=f"watch {self.link.name}")

    def measure(self) -> None:
        """Send keepalives with the current settings."""
        self.link.limit_silence(self._site.config.keepalive)
        self.link.start(self._site.config.keepalive, lambda _: None, self._missed)

    def _missed(self, count: int) -> None:
        if count >= self._site.config.keepalive.max_missed:
            self._end(KeepaliveTimeout(f"{self.link.server} stopped answering"))

    # ------------------------------------------------------------------------------------------- callbacks

    def lost(self, exc: Exception | None) -> None:
        """See `proxy.ssh.server.session.Guest`. The link notices it by itself."""

    def recheck(self) -> None:
        """See `proxy.ssh.server.session.Guest`. Like a forward that is refused, one that is no longer
        permitted ends the login: ssh cannot be told to close one forward.
        """
        if self.link.closed.done() or self.link.error is not None:
            return
        try:
            self.link.forwards.recheck(self._may_listen)
        except ForwardRefused as exc:
            self._refuse(exc)

    def ends(self, error: LinkError) -> None:
        """See `proxy.ssh.server.session.Guest`."""
        self.link.protocol_broken(error)

    def replaced(self, why: str) -> None:
        """End the link because a newer one replaces it."""
        self.link.protocol_broken(LinkReplaced(f"link to {self.link.server} closed: {why}"))
        self._session.disconnect(f"kubemux: {why}")

    # -------------------------------------------------------------------------------------------- forwards

    def _register(self, host: str, port: int) -> bool:
        try:
            forward = self.link.forwards.register(host, port, may_listen=self._may_listen(host, port))
        except ForwardRefused as exc:
            # With ExitOnForwardFailure ssh ends at the answer. It would not read a disconnect message after
            # it.
            self._refuse(exc, answers_first=False)
            return False
        log.debug("forward registered", site=self._site.name, link=self.link.name, forward=str(forward))
        if self._trying is None:
            self._trying = self._tasks.spawn(self._try(), name=f"try {self.link.name}")
        return True

    def _cancel(self, host: str, port: int) -> bool:
        is_cancelled = self.link.forwards.cancel(host, port)
        if self.link.forwards or self._trying is None or not self._trying.done():
            return is_cancelled
        if self._site.serves_no_longer(self):
            self._trying = None
            self._wait()
        return is_cancelled

    def _may_listen(self, host: str, port: int) -> bool:
        login = self._session.login
        return login is not None and login.may_listen(host, port)

    async def _try(self) -> None:
        """Test a forward. If the site cancels it meanwhile, test another one.

        A test that is not answered is not repeated: its channel keeps its memory until the link ends.
        """
        while (forward := next(iter(self.link.forwards), None)) is not None:
            try:
                await self.link.try_forward(forward, timeout=self._site.config.connect_timeout)
            except LinkDown:
                return
            except ChannelError as exc:
                if forward in self.link.forwards or isinstance(exc, ChannelTimeout):
                    self._leads_nowhere(forward, exc)
                    return
            else:
                if self.link.closed.done():
                    return
                if forward in self.link.forwards:
                    if self._watching is not None:
                        self._watching.cancel()
                    self._site.serves(self)
                    return
        self._trying = None

    def _leads_nowhere(self, forward: Endpoint, error: ChannelError) -> None:
        why = f"-R {forward} leads nowhere: {error}"
        if forward.host == self._site.name:
            why += "; with the site's own name, -R takes no target"
        self._refuse(ForwardRefused(why))

    def _refuse(self, error: ForwardRefused, *, answers_first: bool = True) -> None:
        """End the link. The ssh client prints the error, and kubemux logs it when the link has ended."""
        self.link.protocol_broken(error)
        self._session.disconnect(f"kubemux: {error}", answers_first=answers_first)

    # ----------------------------------------------------------------------------------------------- the end

    async def _watch(self) -> None:
        """Wait for the end of a link that does not serve yet: `_try` cancels this when it serves."""
        error = await asyncio.shield(self.link.closed)
        self._site.ended_unused(self, error)
        await self.link.close(error)

    def _end(self, error: LinkError) -> None:
        self._tasks.spawn(self.link.close(error), name=f"close {self.link.name}")
