"""How clients of one gateway wait while no link is up.

Until their own deadline, if the gateway is dialled always: then the next dial may come before. On demand they
wait for the dial that the first of them has caused, and share its failure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from proxy.errors import LinkDown, LinkError
from proxy.ssh.governor import Outage
from proxy.ssh.supervision.retry import Retry


class Waiting:
    """The clients that wait, and what they are told. `why` is the gateway's last failure."""

    def __init__(self, name: str, retry: Retry, why: Callable[[], LinkError | None]) -> None:
        self.up = asyncio.Event()
        """Set while a link is up."""
        self.count = 0
        self._name = name
        self._retry = retry
        self._why = why
        self._loop = asyncio.get_running_loop()
        self._outage = Outage(self._loop.time())
        self._dialled: asyncio.Future[LinkError | None] = self._loop.create_future()

    @property
    def has_failed(self) -> bool:
        """Whether a dial has failed since there was no link."""
        return self._outage.has_failed

    def begin_anew(self) -> None:
        """Nobody needed a link so far: if there is none, the outage begins now."""
        self._outage = Outage(self._loop.time())
        self.changed(is_up=self.up.is_set())

    def changed(self, *, is_up: bool) -> None:
        """Links have come or gone."""
        self._outage.link(self._loop.time(), is_up=is_up)
        if is_up:
            self.up.set()
        else:
            self.up.clear()

    def dial_failed(self) -> None:
        """A dial has failed, and no link is up."""
        self._outage.has_failed = True

    def dialled(self, failure: LinkError | None) -> None:
        """The dial for which clients wait on demand has ended."""
        self._dialled.set_result(failure)
        self._dialled = self._loop.create_future()

    def is_given_up(self, patience: float) -> bool:
        """Whether clients who can wait for `patience` seconds have waited in vain."""
        return self._outage.outlasts(patience, self._loop.time())

    async def for_link(self, until: float) -> None:
        """Return when a link is up. Raises LinkDown."""
        now = self._loop.time()
        # Not the failure itself: `status` shows it in the line of the gateway, and newer than here.
        if self.is_given_up(until - now):
            seconds = self._outage.seconds(now)
            raise LinkDown(
                f"gateway {self._name} has no link, and has had none for {seconds:.0f} s"
            ) from self._why()
        try:
            with self._counted():
                async with asyncio.timeout_at(until):
                    await self.up.wait()
        except TimeoutError:
            raise LinkDown(f"gateway {self._name} has no link") from self._why()

    async def for_dial(self, until: float) -> None:
        """Return when the next dial has brought a link.

        Raises LinkDown if it fails, or at once if the last one has failed and the next is not due yet.
        """
        self._retry.look()
        if self.has_failed and (seconds := self._retry.seconds):
            raise LinkDown(
                f"gateway {self._name} has no link: its last dial has failed, the next may begin in "
                f"{seconds:.0f} s"
            ) from self._why()
        dialled = self._dialled
        with self._counted():
            await asyncio.wait([dialled], timeout=max(0.0, until - self._loop.time()))
        if not dialled.done():
            raise LinkDown(f"gateway {self._name} has no link yet") from self._why()
        if (failure := dialled.result()) is not None:
            raise LinkDown(f"gateway {self._name} has no link: its dial has failed") from failure

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1
