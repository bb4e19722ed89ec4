"""One channel that is being opened: its answer, and what to do if the answer comes late."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxy.ssh.data_plane import Refusal


class Opening:
    """Waits for the peer's answer."""

    __slots__ = ("answer", "is_expired", "on_late")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.answer: asyncio.Future[Refusal | None] = loop.create_future()
        self.is_expired = False
        self.on_late: Callable[[], None] | None = None

    def answered(self, refusal: Refusal | None) -> None:
        if not self.answer.done():
            self.answer.set_result(refusal)
        elif self.on_late is not None:
            self.on_late()

    def expired(self) -> None:
        if not self.answer.done():
            self.is_expired = True
            self.answer.set_result(None)
