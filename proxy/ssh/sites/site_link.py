"""A link that a site's ssh client has made, and the channels that kubemux opens through it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Final

from proxy.errors import ChannelProhibited, ChannelRefused, ChannelTimeout, LinkDown, ProxyError
from proxy.errors.reasons import Reason
from proxy.relay.budget import MemoryBudget
from proxy.relay.interfaces import Channel, ChannelUser, OpenRequest, Pieces
from proxy.runtime.endpoint import Endpoint
from proxy.snapshots import SiteLinkSnapshot
from proxy.ssh.internals import Connection
from proxy.ssh.link import Link
from proxy.ssh.open_requests import Limit
from proxy.ssh.sites.forwards import Forwards
from proxy.ssh.sites.socks5 import DECLINE, Answer, Declined, question
from proxy.ssh.turns import Turns

_LATE_S: Final = 30.0
"""Extra seconds for opening a channel after its client has stopped waiting: see `_open_dynamic`."""
_OURSELVES: Final = Endpoint("127.0.0.1", 0)
"""The origin of a test channel, which has no client."""


class SiteLink(Link):
    """A link whose peer is an SSH client. `forwards` are the forwards that it has registered."""

    def __init__(
        self,
        conn: Connection,
        forwards: Forwards,
        *,
        site: str,
        address: Endpoint,
        key: str,
        budget: MemoryBudget,
        turns: Turns,
        name: str,
        on_open: Callable[[OpenRequest], None] | None,
        on_refused: Callable[[Reason, str], None],
        limit: Limit,
    ) -> None:
        """`address` is the site's address, `key` the fingerprint of its key. For the other arguments see
        `Link`.
        """
        super().__init__(
            (conn,),
            server=f"site {site} at {address}",
            budget=budget,
            turns=turns,
            name=name,
            on_open=on_open,
            on_refused=on_refused,
            limit=limit,
        )
        self.forwards = forwards
        self.address = address
        self.key = key

    def snapshot(self) -> SiteLinkSnapshot:
        return SiteLinkSnapshot(
            **asdict(super().snapshot()),
            address=str(self.address),
            key=self.key,
            forwards=tuple(map(str, self.forwards)),
        )

    async def reach(
        self,
        target: Endpoint,
        *,
        origin: Endpoint,
        timeout: float,  # noqa: ASYNC109
        is_needed: bool,
    ) -> Channel:
        """Open a channel to `target` within `timeout` seconds. It uses the fixed forward for `target` if
        there is one, and the site's SOCKS5 server otherwise.

        Raises the errors of `open_channel`, and ChannelProhibited if the site has no forward for `target`.
        """
        by = asyncio.get_running_loop().time() + timeout
        if (fixed := self.forwards.fixed(target)) is not None:
            return await self.open_channel(fixed, origin=origin, timeout=timeout, is_needed=is_needed)
        if (server := self.forwards.dynamic) is None:
            has = ", ".join(map(str, self.forwards)) or "none at all"
            raise ChannelProhibited(
                f"{self.server} has no forward for {target}; it has {has}",
                hint=f"the ssh of the site needs -R {self.forwards.site}:1080, or -R {target}:HOST:PORT",
            )
        asked = question(target)
        try:
            channel = await self._open_dynamic(server, origin, timeout, is_needed=is_needed)
            await _request(channel, Answer(self.server, target), asked, by)
        except TimeoutError:
            raise ChannelTimeout(f"{self.server} did not reach {target} within {timeout:g} s") from None
        return channel

    async def try_forward(self, forward: Endpoint, *, timeout: float) -> None:  # noqa: ASYNC109
        """Open a channel as a test, and close it. Raises ChannelError if the site's ssh does not know
        `forward` or is no SOCKS5 server, LinkDown if the link is lost.
        """
        by = asyncio.get_running_loop().time() + timeout
        if forward != self.forwards.dynamic:
            with suppress(ChannelRefused):  # ssh knows the forward, but cannot connect to its target
                one = self.open_channel(forward, origin=_OURSELVES, timeout=timeout, is_needed=False)
                channel = await one
                channel.write_eof()  # if it is a SOCKS5 server after all: see `_open_dynamic`
                channel.close()
            return
        try:
            channel = await self._open_dynamic(forward, _OURSELVES, timeout, is_needed=False)
            await _request(channel, Declined(self.server), DECLINE, by)
        except TimeoutError:
            raise ChannelTimeout(f"no SOCKS5 server has answered within {timeout:g} s") from None
        channel.close()

    async def _open_dynamic(
        self, server: Endpoint, origin: Endpoint, seconds: float, *, is_needed: bool
    ) -> Channel:
        """Open a channel to the site's SOCKS5 server. Raises TimeoutError, and the errors of `open_channel`.

        If a CLOSE comes before the SOCKS5 request, OpenSSH's SOCKS5 server keeps the channel for ever. An EOF
        before the CLOSE makes it close the channel. So if the client stops waiting, a task still completes
        the opening, and then sends that EOF.
        """
        opening = self._tasks.spawn(
            self._opened(server, origin, seconds + _LATE_S, is_needed=is_needed), name="open"
        )
        try:
            await asyncio.wait([opening], timeout=seconds)
        except asyncio.CancelledError:
            opening.add_done_callback(_decline)
            raise
        if not opening.done():
            opening.add_done_callback(_decline)
            raise TimeoutError
        if opening.cancelled():
            raise LinkDown(f"the link to {self.server} was lost while a channel was opened")
        opened = opening.result()
        if isinstance(opened, ProxyError):
            raise opened
        return opened

    async def _opened(
        self, server: Endpoint, origin: Endpoint, seconds: float, *, is_needed: bool
    ) -> Channel | ProxyError:
        try:
            return await self.open_channel(server, origin=origin, timeout=seconds, is_needed=is_needed)
        except ProxyError as exc:
            return exc


def _decline(opening: asyncio.Task[Channel | ProxyError]) -> None:
    """The client no longer waits for this channel: make the SOCKS5 server close it."""
    if not opening.cancelled() and not isinstance(channel := opening.result(), ProxyError):
        channel.write_eof()
        channel.close()


async def _request(channel: Channel, answer: Answer | Declined, asked: bytes, by: float) -> None:
    """Send `asked` to the SOCKS5 server, and wait for the answer. Raises TimeoutError, and the errors of
    `answer`.
    """
    requesting = _Requesting(channel, answer)
    try:
        requesting.ask(asked)
        async with asyncio.timeout_at(by):
            await requesting.answer
    except BaseException:
        channel.abort()
        raise


class _Requesting(ChannelUser):
    """Owns a channel until the SOCKS5 server at its other end has answered."""

    def __init__(self, channel: Channel, answer: Answer | Declined) -> None:
        self._channel = channel
        self._reply = answer
        self.answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Raises ChannelRefused, ChannelError, LinkDown."""

    def ask(self, asked: bytes) -> None:
        """Send the SOCKS5 request."""
        self._channel.attach(self)
        left = memoryview(asked)
        while left and not self.answer.done():
            buffer = self._channel.get_buffer(len(left))
            piece = left[: len(buffer)]
            buffer[: len(piece)] = piece
            self._channel.buffer_updated(len(piece))
            left = left[len(piece) :]

    def channel_data(self, pieces: Pieces, nbytes: int) -> None:
        del nbytes
        if self.answer.done():
            return
        try:
            unread = self._reply.feed(b"".join(pieces))
        except ProxyError as exc:
            self.answer.set_exception(exc)
            return
        if unread is not None:
            self._channel.detach(unread)
            self.answer.set_result(None)

    def channel_eof(self) -> None:
        """Nothing to do: OpenSSH closes the channel after its EOF, which calls `channel_lost`."""

    def channel_full(self) -> None:
        """Nothing to do: the request is short, and fits into the channel's buffer."""

    def channel_writable(self) -> None:
        """See `channel_full`."""

    def channel_lost(self, error: ProxyError | None) -> None:
        if self.answer.done():
            return
        if error is None:
            if (failure := self._reply.closed()) is None:
                self.answer.set_result(None)
            else:
                self.answer.set_exception(failure)
        else:
            down = LinkDown("the link was lost while a channel was opened")
            down.__cause__ = error
            self.answer.set_exception(down)
