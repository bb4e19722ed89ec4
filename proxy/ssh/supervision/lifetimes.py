"""Watches the links of a gateway or site: it measures them, replaces bad and old ones, and closes them.

A link that is to be replaced serves until its replacement is up. Then it retires: it gets no new channels,
and is closed when its last channel has ended or `retire_timeout` is over. `proxy/ssh/supervision/links.py`
decides; this module acts.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from functools import partial
from typing import Generic, Protocol, TypeVar

from proxy.config.model import KeepaliveConfig
from proxy.errors import KeepaliveTimeout, LinkError, LinkReplaced
from proxy.runtime.tasks import Tasks
from proxy.ssh.link import Link
from proxy.ssh.supervision.links import Links
from proxy.ssh.supervision.report import Report

L = TypeVar("L", bound=Link)


class Settings(Protocol):
    """The configuration keys of a gateway or site that the lifetime of a link depends on."""

    @property
    def keepalive(self) -> KeepaliveConfig: ...

    @property
    def retire_timeout(self) -> float: ...

    @property
    def max_link_age(self) -> float | None: ...


class Lifetimes(Generic[L]):
    """Watches the links of one gateway or site.

    It calls `on_lost` with a link that ended while it served, and `on_change` after links came up, ended, or
    became stale. `wanted` returns how many links are to serve.
    """

    def __init__(
        self,
        name: str,
        config: Settings,
        links: Links[L],
        report: Report,
        *,
        wanted: Callable[[], int],
        on_lost: Callable[[L, LinkError], None],
        on_change: Callable[[], None],
    ) -> None:
        self._config = config
        self._links = links
        self._report = report
        self._wanted = wanted
        self._on_lost = on_lost
        self._on_change = on_change
        self._silent: set[L] = set()
        self._watches: dict[L, asyncio.Task[None]] = {}
        self._new_settings = asyncio.get_running_loop().create_future()
        self._tasks = Tasks(f"gateway {name}")

    def add(self, link: L, generation: int) -> bool:
        """Add a link of `generation` that has just come up. Returns whether it replaces another link."""
        self._links.add(link, generation)
        self._watches[link] = self._tasks.keep(partial(self._watch, link), name=f"watch {link.name}")
        has_replaced = self._retire_surplus()
        self._measure(link)
        return has_replaced

    def reconfigure(self, config: Settings) -> None:
        """Use other settings for the same server. They apply to retiring links, too, which may stay long."""
        has_new_keepalive = config.keepalive != self._config.keepalive
        self._config = config
        self._new_settings.set_result(None)
        self._new_settings = asyncio.get_running_loop().create_future()
        if has_new_keepalive:
            for link in self._all:
                link.limit_silence(config.keepalive)
                self._measure(link)
        self._retire_surplus()

    def release(self, link: L) -> bool:
        """Stop watching a link that serves, without closing it. Returns False if it does not serve."""
        if link.closed.done() or link not in self._links:
            return False
        self._links.remove(link)
        self._silent.discard(link)
        self._watches.pop(link).cancel()
        return True

    def close_untrusted(self, error: LinkError) -> None:
        """Close stale and retiring links at once, because the server's key has been revoked."""
        for link in (*self._links.stale, *self._links.retiring):
            self._close(link, error)

    def close_serving(self, error: Callable[[L], LinkError]) -> None:
        """Close the serving links, because no client uses them. New channels do not use them from now on."""
        for link in self._links.retire_surplus(0):
            self._close(link, error(link))

    async def until_idle(self) -> None:
        """Return when no link has a channel."""
        await asyncio.gather(*(link.idle.wait() for link in self._all))

    async def close(self) -> None:
        """Close every link and wait until they are closed."""
        await asyncio.gather(*(link.close() for link in self._all))
        await self._tasks.close()
        self._links.clear()

    @property
    def _all(self) -> tuple[L, ...]:
        return (*self._links, *self._links.retiring)

    # ------------------------------------------------------------------------------------------ replacement

    def _replace(self, link: L, why: str) -> bool:
        is_stale = self._links.mark_stale(link, wanted=self._wanted())
        if is_stale:
            self._report.replacing(why, link)
            self._on_change()
        return is_stale

    def _retire_surplus(self) -> bool:
        """Retire links that are no longer needed. Returns whether there were any."""
        wanted = self._wanted()
        leaving = self._links.retire_surplus(wanted)
        for link in leaving:
            self._tasks.keep(partial(self._retire, link), name=f"retire {link.name}")
            self._report.retires(link)
        # If a reload lowers `connections`, several links retire at once. These must not be closed here.
        for link in self._links.retiring_surplus(max(wanted, len(leaving))):
            why = f"it was replaced, and so were {wanted} others since"
            self._close(link, LinkReplaced(f"link to {link.server} closed: {why}"))
        return bool(leaving)

    async def _retire(self, link: L) -> None:
        seconds = self._config.retire_timeout
        error = LinkReplaced(f"link to {link.server} was replaced")
        try:
            async with asyncio.timeout(seconds):
                await link.idle.wait()
        except TimeoutError:
            error = LinkReplaced(
                f"link to {link.server} was replaced {seconds:g} s ago, and still had {link.load} channels"
            )
        await link.close(error)

    # ------------------------------------------------------------------------------------------- keepalives

    def _measure(self, link: L) -> None:
        link.start(self._config.keepalive, partial(self._answered, link), partial(self._missed, link))

    def _answered(self, link: L, rtt: float) -> None:
        self._silent.discard(link)
        self._report.rtt(rtt)

    def _missed(self, link: L, count: int) -> None:
        """The link has not answered for `count` intervals. After `max_missed`, close it. Before that, replace
        it if another link answers.
        """
        self._silent.add(link)
        if count >= self._config.keepalive.max_missed:
            self._close(link, KeepaliveTimeout(f"{link.server} stopped answering"))
        elif any(other not in self._silent for other in self._links):
            self._replace(link, "it missed a keepalive, others do not")

    # ------------------------------------------------------------------------------------------ ends of links

    async def _watch(self, link: L) -> None:
        error = await self._until_it_ends(link)
        try:
            self._silent.discard(link)
            if self._links.remove(link):
                self._on_lost(link, error)
            self._report.link_ended(link, error)
        finally:
            self._watches.pop(link, None)
            self._on_change()  # before other code runs: no client may get a link that has ended
            await link.close(error)

    async def _until_it_ends(self, link: L) -> LinkError:
        """Wait until the link ends, and return why. If it becomes too old, replace it."""
        waited_for = link.age
        while not link.closed.done():
            age, news = self._config.max_link_age, self._new_settings
            # The jitter keeps all links from being replaced at once.
            seconds = None if age is None else age * random.uniform(0.9, 1.0) - waited_for  # noqa: S311
            await asyncio.wait([link.closed, news], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if news.done():
                waited_for = link.age
            elif not link.closed.done():
                if self._replace(link, f"it is older than {age:g} s"):
                    break
                waited_for = 0.0  # too many links retire: wait as long again
        return await asyncio.shield(link.closed)

    def _close(self, link: L, error: LinkError) -> None:
        self._tasks.spawn(link.close(error), name=f"close {link.name}")
