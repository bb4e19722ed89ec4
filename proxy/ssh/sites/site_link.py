"""A link of a site: a connection that the site's ssh client has made, and the channels through it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict

from proxy.errors import ChannelProhibited, ChannelTimeout, LinkDown, ProxyError
from proxy.relay.budget import MemoryBudget
from proxy.relay.interfaces import Channel, ChannelUser, OpenRequest, Pieces
from proxy.runtime.endpoint import Endpoint
from proxy.snapshots import SiteLinkSnapshot
from proxy.ssh.internals import Connection
from proxy.ssh.link import Link
from proxy.ssh.sites.forwards import Forwards
from proxy.ssh.sites.socks5 import Answer, question
from proxy.ssh.turns import Turns


class SiteLink(Link):
    """A link whose other end is an SSH client. `forwards` are those that it has registered."""

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
        max_requests: int,
    ) -> None:
        """`address` is the one that the site has connected from, `key` the fingerprint of its key. For the
        rest see `Link`.
        """
        super().__init__(
            (conn,),
            server=f"site {site} at {address}",
            budget=budget,
            turns=turns,
            name=name,
            on_open=on_open,
            max_requests=max_requests,
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
        """A channel to `target`, within `timeout` seconds: by a fixed forward, or through the SOCKS5 server
        of the site if none fits.

        Raises what `open_channel` does; ChannelProhibited if the site has no forward for it.
        """
        by = asyncio.get_running_loop().time() + timeout
        if (fixed := self.forwards.fixed(target)) is not None:
            return await self.open_channel(fixed, origin=origin, timeout=timeout, is_needed=is_needed)
        if (server := self.forwards.dynamic) is None:
            has = ", ".join(map(str, self.forwards)) or "none at all"
            raise ChannelProhibited(
                f"{self.server} has no forward for {target}; it has {has}",
                hint=f"the ssh of the site needs -R {target}:HOST:PORT, or -R with the site's own name",
            )
        asked = question(target)
        channel = await self.open_channel(server, origin=origin, timeout=timeout, is_needed=is_needed)
        asking = _Requesting(channel, Answer(self.server, target))
        try:
            asking.ask(asked)
            async with asyncio.timeout_at(by):
                await asking.answer
        except TimeoutError:
            channel.abort()
            raise ChannelTimeout(f"{self.server} did not reach {target} within {timeout:g} s") from None
        except BaseException:
            channel.abort()
            raise
        return channel


class _Requesting(ChannelUser):
    """Owns a channel until the SOCKS5 server at its other end has answered."""

    def __init__(self, channel: Channel, answer: Answer) -> None:
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
        """OpenSSH closes the channel then, too."""

    def channel_full(self) -> None:
        """Nothing to do: the request is short, and fits into the channel's buffer."""

    def channel_writable(self) -> None:
        """See `channel_full`."""

    def channel_lost(self, error: ProxyError | None) -> None:
        if self.answer.done():
            return
        if error is None:
            self.answer.set_exception(self._reply.closed())
        else:
            down = LinkDown("the link was lost while a channel was opened")
            down.__cause__ = error
            self.answer.set_exception(down)
