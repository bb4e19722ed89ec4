"""How the clients of one gateway wait while no link is up.

If the gateway always dials, a client waits until its own deadline, because a dial may succeed before it. If
the gateway dials on demand, the first client causes a dial. All clients wait for it, and share its failure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxy.errors import LinkDown, LinkError
from proxy.ssh.governor import Outage
from proxy.ssh.supervision.retry import Retry


class Waiting:
    """The waiting clients of one gateway. `why` returns the gateway's last failure: the cause of the error
    that the clients get.
    """

    def __init__(
        self,
        subject: str,
        retry: Retry,
        why: Callable[[], LinkError | None],
        *,
        hint: str | None = None,
    ) -> None:
        """`subject` is the gateway or site, for messages: `site factory-7`. `hint` is the
        remedy for its clients; None for the usual one.
        """
        self.up = asyncio.Event()
        """Set while a link is up. `end` replaces it."""
        self._waiting_for_link = 0
        self._waiting_for_dial = 0
        self._subject = subject
        self._retry = retry
        self._why = why
        self._hint = hint
        self._loop = asyncio.get_running_loop()
        self._outage = Outage(self._loop.time())
        self._dialled: asyncio.Future[LinkError | None] = self._loop.create_future()

    @property
    def count(self) -> int:
        """How many clients wait. A client whose dial has failed is not counted, even if its task has not
        ended yet.
        """
        return self._waiting_for_link + self._waiting_for_dial

    @property
    def has_failed(self) -> bool:
        """Whether a dial has failed since the last link ended."""
        return self._outage.has_failed

    def begin_anew(self) -> None:
        """Let the outage begin now if there is no link: until now, no client needed one."""
        self._outage = Outage(self._loop.time())
        self.changed(is_up=self.up.is_set())

    def changed(self, *, is_up: bool) -> None:
        """Note that links came up or ended."""
        self._outage.link(self._loop.time(), is_up=is_up)
        if is_up:
            self.up.set()
        else:
            self.up.clear()

    def dial_failed(self) -> None:
        """Note that a dial has failed while no link is up."""
        self._outage.has_failed = True

    def dialled(self, failure: LinkError | None) -> None:
        """Wake the clients that wait for a dial: it has ended, with `failure` or successfully."""
        if failure is not None:
            self._waiting_for_dial = 0
        self._dialled.set_result(failure)
        self._dialled = self._loop.create_future()

    def end(self) -> None:
        """Wake all clients: they go on waiting elsewhere, because no link will come up here."""
        self.up.set()
        self.up = asyncio.Event()
        self.dialled(None)

    def is_given_up(self, patience: float) -> bool:
        """Whether the outage is longer than `patience`, the seconds that a client waits
        (`Outage.outlasts`).
        """
        return self._outage.outlasts(patience, self._loop.time())

    async def for_link(self, until: float) -> None:
        """Return when a link is up. Raises LinkDown."""
        now = self._loop.time()
        # The message does not repeat the failure: `status` shows the latest one in the gateway's line.
        if self.is_given_up(until - now):
            seconds = self._outage.seconds(now)
            raise LinkDown(
                f"{self._subject} has no link, and has had none for {seconds:.0f} s", hint=self._hint
            ) from self._why()
        try:
            self._waiting_for_link += 1
            async with asyncio.timeout_at(until):
                await self.up.wait()
        except TimeoutError:
            raise LinkDown(f"{self._subject} has no link", hint=self._hint) from self._why()
        finally:
            self._waiting_for_link -= 1

    async def for_dial(self, until: float) -> None:
        """Wait for the next dial, and return if it succeeds.

        Raises LinkDown if it fails, or at once if the last dial has failed and the next one is not due yet.
        """
        self._retry.end_if_due()
        if self.has_failed and (seconds := self._retry.seconds):
            raise LinkDown(
                f"{self._subject} has no link: its last dial has failed, the next may begin in "
                f"{seconds:.0f} s"
            ) from self._why()
        dialled = self._dialled
        self._waiting_for_dial += 1
        try:
            await asyncio.wait([dialled], timeout=max(0.0, until - self._loop.time()))
        finally:
            if not (dialled.done() and dialled.result()):
                self._waiting_for_dial -= 1
        if not dialled.done():
            raise LinkDown(f"{self._subject} has no link yet") from self._why()
        if (failure := dialled.result()) is not None:
            raise LinkDown(f"{self._subject} has no link: its dial has failed") from failure
