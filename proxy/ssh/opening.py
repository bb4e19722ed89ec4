"""One channel that is being opened: its answer, and what to do if the answer comes late."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxy.relay.interfaces import Channel
from proxy.runtime.endpoint import Endpoint
from proxy.ssh.data_plane import Refusal


class Opening:
    """Waits for the peer's answer. A subclass may do more before the client gets the channel."""

    __slots__ = ("answer", "channel", "has_answer", "is_expired", "on_late", "target")

    channel: Channel
    """Set from the request until the client's task has the answer."""

    def __init__(self, loop: asyncio.AbstractEventLoop, target: Endpoint) -> None:
        """`target` is what the client wants to reach, for messages."""
        self.target = target
        self.answer: asyncio.Future[Refusal | None] = loop.create_future()
        """For the client. It raises ProxyError only in a subclass."""
        self.has_answer = False
        """Whether the peer has opened or refused the channel."""
        self.is_expired = False
        self.on_late: Callable[[], None] | None = None

    def answered(self, refusal: Refusal | None) -> None:
        self.has_answer = True
        if not self.answer.done():
            self.answer.set_result(refusal)
        elif self.on_late is not None:
            self.on_late()

    def expired(self) -> None:
        if not self.answer.done():
            self.is_expired = True
            self.answer.set_result(None)
