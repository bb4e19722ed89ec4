"""One gateway: keeps its links up and chooses one for each new channel.

A single supervisor task dials, one attempt at a time, so a wrong key is tried once and not by every link, and
the second link follows as soon as the first is up. Clients that come while no link is up wait for `_up` until
their own deadline.

A link that is to be replaced (`renew`, an age, a keepalive missed) goes on until its replacement is up, and
then until its last channel has ended or `retire_timeout` is over. `proxy/ssh/supervision/links.py` decides
which is which.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final

import asyncssh

from proxy.config.model import GatewayConfig
from proxy.errors import (
    CredentialsUnusable,
    HostKeyRevoked,
    KeepaliveTimeout,
    LinkClosed,
    LinkDown,
    LinkError,
    LinkReplaced,
    RetryClass,
)
from proxy.metrics import Metrics
from proxy.relay.budget import MemoryBudget
from proxy.runtime.blocking import Hangs, Place
from proxy.runtime.endpoint import Endpoint
from proxy.runtime.tasks import Tasks
from proxy.snapshots import GatewaySnapshot
from proxy.ssh.fallback.channel import SshChannel
from proxy.ssh.governor import Backoff, Outage
from proxy.ssh.handshakes import Handshakes
from proxy.ssh.link import Link
from proxy.ssh.login.dial import Dialled, Places, dial
from proxy.ssh.login.host_keys import Announcement, learn
from proxy.ssh.native.channel import NativeChannel
from proxy.ssh.supervision.establish import establish
from proxy.ssh.supervision.links import Links
from proxy.ssh.supervision.report import Report

REPLACED: Final = LinkReplaced.reason
"""The reason under which a link counts that was replaced before it ended."""


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
        places: Places | None = None,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.config = config
        self._gateways = gateways
        self._budget = budget
        self._report = Report(name, metrics)
        self._handshakes = handshakes
        self._on_change = on_change
        self._supervisor = Tasks(f"gateway {name}")
        self._tasks = Tasks(f"gateway {name}")
        self._links: Links[Link] = Links()
        self._missing: set[Link] = set()
        self._up = asyncio.Event()
        self._wanted = asyncio.Event()
        self._hurry = asyncio.Event()
        self._backoff = Backoff()
        self._outage = Outage(asyncio.get_running_loop().time())
        self._numbers = count(1)
        self._lost_reasons: list[str] = []
        self._retry_at: float | None = None
        self._failure: LinkError | None = None
        self._is_closing = False
        self._is_ordered = False
        self._places = places or Places(f"gateway {name}")
        self._learning = Place(f"host keys of gateway {name}")

    def __repr__(self) -> str:
        return f"<Gateway {self.name} {self._report.state} links={self._links}>"

    def start(self) -> None:
        """Begin to dial."""
        self._report.start()
        self._wanted.set()
        self._supervisor.keep(self._supervise, name="supervise")

    async def connect(self) -> None:
        """Dial one link now, once, for a command that needs no supervision. Raises LinkError."""
        self._link_up(await self._dial(), self._links.generation)

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - a budget, not a failure
        """Dial no more, wait up to `timeout` seconds until no channel is left, then close; cancelled, at
        once.
        """
        self._is_closing = True
        try:
            await self._supervisor.close()
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await asyncio.gather(
                        *(link.idle.wait() for link in (*self._links, *self._links.retiring))
                    )
        finally:
            await self.close()

    async def close(self) -> None:
        """Close every link and wait until they are closed."""
        self._is_closing = True
        await self._supervisor.close()
        await asyncio.gather(*(link.close() for link in (*self._links, *self._links.retiring)))
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
            state=self._report.state,
            links=tuple(link.snapshot() for link in self._links),
            retiring=tuple(link.snapshot() for link in self._links.retiring),
            wanted=self.config.connections,
            reconnects=self._report.reconnects,
            retry_in=max(0.0, self._retry_at - now) if self._retry_at is not None else None,
            reason=failure.reason if failure else "",
            message=str(failure) if failure else "",
            hint=failure.hint if failure else "",
            certificate_expiry=min(self._report.expiries.values(), default=None),
        )

    # -------------------------------------------------------------------------------------------- channels

    async def open_channel(
        self, target: Endpoint, *, origin: Endpoint, hold_until: float
    ) -> SshChannel | NativeChannel:
        """See `proxy.relay.interfaces.Route`.

        A link that ends meanwhile is replaced by the next, until `hold_until`.
        """
        loop = asyncio.get_running_loop()
        while True:
            while not self._up.is_set():  # a link may be gone again before whoever has waited for it runs
                await self._wait_for_link(hold_until)
            link = self._links.choose(target)
            try:
                return await link.open_channel(target, origin=origin, timeout=self.config.connect_timeout)
            except LinkDown:
                if loop.time() >= hold_until:
                    raise
                # Not `await link.closed`: the first client to leave would cancel the future under everybody.
                await asyncio.wait([link.closed], timeout=hold_until - loop.time())

    async def _wait_for_link(self, hold_until: float) -> None:
        now = asyncio.get_running_loop().time()
        # Not the failure itself: in `status` it would stand beside the gateway's own line, and be older than
        # that.
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
        """See `proxy.relay.interfaces.Route`."""
        return self._outage.outlasts(patience, asyncio.get_running_loop().time())

    # ----------------------------------------------------------------------------------------- supervision

    def look(self) -> None:
        """Call it about twice a second: how busy each link is."""
        for link in self._links:
            link.look()

    def renew(self, why: str) -> None:
        """Replace every link, make before break, and skip the wait if there is one.

        Returns at once; `why` is for the log.
        """
        self._links.renew()
        self._report.replacing(why, links=len(self._links))
        self._is_ordered = True
        self.hurry()
        self._changed()
        self._wanted.set()

    def hurry(self) -> None:
        """Skip the wait, if there is one."""
        if self._retry_at is not None:
            self._hurry.set()

    def take(self, config: GatewayConfig, gateways: Mapping[str, GatewayConfig]) -> None:
        """Other settings for the same server, or files that have changed: links are replaced."""
        is_retimed = config.keepalive != self.config.keepalive
        self.config = config
        self._places = Places(f"gateway {self.name}")  # other files and names perhaps than what hangs
        self._gateways = gateways
        if is_retimed:  # clients may be on links that retire for long
            for link in (*self._links, *self._links.retiring):
                link.retime(config.keepalive)
                self._measure(link)
        self._retire_surplus()
        self.renew("configuration")

    async def _supervise(self) -> None:
        while True:
            await self._wanted.wait()
            if not self._links.lacks(self.config.connections):
                self._wanted.clear()
            elif self._retry_at is not None:
                await self._wait_for_retry()
            else:
                await self._dial_one()

    async def _dial_one(self) -> None:
        generation = self._links.generation
        try:
            link = await self._dial()
        except LinkError as exc:
            self._dial_failed(exc)
            if generation != self._links.generation:  # what failed was made with what has been replaced since
                self._hurry.set()
        else:
            self._link_up(link, generation)

    async def _dial(self) -> Link:
        is_ordered, self._is_ordered = self._is_ordered, False
        dialling = partial(
            dial,
            self.config,
            self._gateways,
            self._handshakes,
            on_expiry=self._report.expiry,
            who=self,
            is_ordered=is_ordered,
            places=self._places,
        )
        return await establish(dialling, self._link, name=self.name)

    def _link(self, dialled: Dialled) -> Link:
        self._report.handshake(dialled.handshake)
        link = Link(
            dialled.conns,
            server=dialled.server,
            budget=self._budget,
            name=f"{self.name}/{next(self._numbers)}",
            command=dialled.command,
        )
        dialled.announcement.add_done_callback(partial(self._host_keys_announced, link))
        return link

    def _host_keys_announced(self, link: Link, announcement: asyncio.Future[Announcement]) -> None:
        path = self.config.learned_host_keys
        if path is not None and not link.closed.done() and not self._is_closing:
            self._tasks.spawn(self._learn(path, announcement.result()), name=f"learn {link.name}")

    async def _learn(self, path: Path, announcement: Announcement) -> None:
        try:
            if update := await learn(path, self.config, announcement, self._learning):
                self._report.learned(path, announcement.name, update)
        except (CredentialsUnusable, OSError, asyncssh.Error, Hangs) as exc:
            self._report.not_learned(path, exc)

    def _dial_failed(self, exc: LinkError) -> None:
        if HostKeyRevoked in {
            type(exc),
            type(exc.__cause__),
        }:  # whoever marked the key meant the links, too, that trusted it
            for link in (*self._links.stale, *self._links.retiring):
                self._tasks.spawn(link.close(exc), name=f"close {link.name}")
        self._outage.has_failed = not self._links
        delay = self._backoff.failed(exc.retry)
        self._report.dial_failed(exc, self._failure, delay=delay, kept=len(self._links))
        self._failure = exc
        self._set_retry(delay)
        self._changed()

    def _set_retry(self, delay: float | None) -> None:
        self._retry_at = None if delay is None else asyncio.get_running_loop().time() + delay
        self._report.backoff(delay or 0.0)

    async def _wait_for_retry(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._retry_at):
                await self._hurry.wait()
        self._hurry.clear()
        self._set_retry(None)

    def _link_up(self, link: Link, generation: int) -> None:
        self._failure = None
        self._links.add(link, generation)
        self._tasks.keep(partial(self._watch, link), name=f"watch {link.name}")
        replaced = self._retire_surplus()
        instead_of = self._lost_reasons.pop(0) if self._lost_reasons else REPLACED if replaced else None
        self._measure(link)
        self._report.link_up(link, instead_of=instead_of)
        self._changed()

    def _retire_surplus(self) -> bool:
        """Let links that others have made redundant end; whether there were any."""
        leaving = self._links.surplus(self.config.connections)
        for link in leaving:
            self._tasks.keep(partial(self._retire, link), name=f"retire {link.name}")
            self._report.retires(link)
        for link in self._links.crowd(self.config.connections):
            error = LinkReplaced(
                f"link to {link.server} closed: it was replaced, and so were {self.config.connections} "
                "others since"
            )
            self._tasks.spawn(link.close(error), name=f"close {link.name}")
        return bool(leaving)

    async def _retire(self, link: Link) -> None:
        seconds = self.config.retire_timeout
        error = LinkReplaced(f"link to {link.server} was replaced")
        try:
            async with asyncio.timeout(seconds):
                await link.idle.wait()
        except TimeoutError:
            error = LinkReplaced(
                f"link to {link.server} was replaced {seconds:g} s ago, and had {link.load} channels still"
            )
        await link.close(error)

    # ------------------------------------------------------------------------------------------ ends of links

    def _measure(self, link: Link) -> None:
        link.start(self.config.keepalive.interval, partial(self._answered, link), partial(self._missed, link))

    def _answered(self, link: Link, rtt: float) -> None:
        self._missing.discard(link)
        if not self._is_closing:  # another gateway may have the name by now, or none
            self._report.rtt(rtt)

    def _missed(self, link: Link, count: int) -> None:
        """`count` intervals without an answer: one is reason to replace it if others do answer, `max_missed`
        are to end it.
        """
        self._missing.add(link)
        if count >= self.config.keepalive.max_missed:
            error = KeepaliveTimeout(f"{link.server} stopped answering")
            self._tasks.spawn(link.close(error), name=f"close {link.name}")
        elif any(other not in self._missing for other in self._links):
            self._condemn(link, "it missed a keepalive, others do not")

    def _condemn(self, link: Link, why: str) -> bool:
        condemned = self._links.condemn(link, wanted=self.config.connections)
        if condemned:
            self._report.replacing(why, link)
            self._changed()
            self._wanted.set()
        return condemned

    async def _until_it_ends(self, link: Link) -> LinkError:
        """Why it ended. On the way there it may grow too old."""
        age = self.config.max_link_age
        while age is not None:
            # Not all links of a fleet at once. The second time, and later: there was no room for one more
            # that retires.
            await asyncio.wait([link.closed], timeout=age * random.uniform(0.9, 1.0))  # noqa: S311 - jitter, not a secret
            if link.closed.done() or self._condemn(link, f"it is older than {age:g} s"):
                break
        return await asyncio.shield(link.closed)

    async def _watch(self, link: Link) -> None:
        error = await self._until_it_ends(link)
        try:
            self._ended(link, error)
        finally:
            self._wanted.set()
            self._changed()  # before anything else runs: nobody may wait for a link that is gone
            await link.close(error)

    def _ended(self, link: Link, error: LinkError) -> None:
        self._missing.discard(link)
        if self._links.remove(link):
            self._lost_reasons.append(error.reason)
            # A wait stays that others of the same outage have brought, or a refused key; so does what a
            # refused key says.
            if self._retry_at is None and not isinstance(error, LinkClosed) and not self._is_closing:
                self._set_retry(self._backoff.unused() if link.is_unused else self._backoff.lost(link.age))
            if self._failure is None or self._failure.retry is not RetryClass.SLOW:
                self._failure = error
        self._report.link_ended(link, error)

    def _changed(self) -> None:
        """Bring state, metrics and waiting clients in line with the links."""
        self._outage.link(asyncio.get_running_loop().time(), is_up=bool(self._links))
        if self._links:
            self._up.set()
        else:
            self._up.clear()
        if not self._is_closing:  # another gateway may have the name by now
            self._report.changed(
                self._links, wanted=self.config.connections, is_failing=self._failure is not None
            )
            self._on_change()
