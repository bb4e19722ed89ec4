"""A channel to the SOCKS5 server in a site's ssh client, until the server has connected to the target.

    opened by the link ---> asked for the target ---> answered: the client gets the channel

The request is sent in the turn of the loop in which the channel is confirmed. The client's task runs once,
at the end: a task and a deadline for each step took 30 % more CPU than a fixed forward.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from proxy.errors import ChannelError, LinkDown, ProxyError
from proxy.relay.interfaces import Pieces
from proxy.runtime.endpoint import Endpoint
from proxy.ssh.data_plane import Refusal
from proxy.ssh.opening import Opening


class Reply(Protocol):
    """Parses what the server sends (`proxy.ssh.sites.socks5`)."""

    def feed(self, data: bytes) -> bytes | None:
        """None until the reply is complete, then the bytes after it. Raises ChannelError."""

    def closed(self) -> ChannelError | None:
        """The error if the channel is closed before the reply is complete."""


class Asking(Opening):
    """Owns the channel until the answer. It is the `proxy.relay.interfaces.ChannelUser` meanwhile."""

    __slots__ = ("_reply", "_request")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, target: Endpoint, request: bytes, reply: Reply
    ) -> None:
        """`request` is what the server gets as soon as the channel is open."""
        super().__init__(loop, target)
        self._request = request
        self._reply = reply

    def answered(self, refusal: Refusal | None) -> None:
        """The peer has opened or refused the channel."""
        if refusal is not None or self.answer.done():
            super().answered(refusal)
            return
        self.has_answer = True
        channel, left = self.channel, self._request
        channel.attach(self)
        while left:
            buffer = channel.get_buffer(len(left))
            size = min(len(left), len(buffer))
            buffer[:size] = left[:size]
            channel.buffer_updated(size)
            left = left[size:]

    def _fail(self, error: ProxyError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)

    # ------------------------------------------------------------------------------------------ the channel

    def channel_data(self, pieces: Pieces, nbytes: int) -> None:
        """Parse what the server has sent. What follows the reply belongs to the target."""
        del nbytes
        if self.answer.done():
            return
        try:
            unread = self._reply.feed(b"".join(pieces))
        except ProxyError as exc:
            self._fail(exc)
            return
        if unread is not None:
            self.channel.detach(unread)
            self.answer.set_result(None)

    def channel_eof(self) -> None:
        """Nothing to do: OpenSSH closes the channel after its EOF, which calls `channel_lost`."""

    def channel_full(self) -> None:
        """Nothing to do: the request is short, and fits into the channel's buffer."""

    def channel_writable(self) -> None:
        """See `channel_full`."""

    def channel_lost(self, error: ProxyError | None) -> None:
        """The channel or its link has ended before the reply was complete."""
        if error is not None:
            down = LinkDown("the link was lost while a channel was opened")
            down.__cause__ = error
            self._fail(down)
        elif (failure := self._reply.closed()) is not None:
            self._fail(failure)
        elif not self.answer.done():
            self.answer.set_result(None)
