"""A link that a site's ssh client has made, and the channels that kubemux opens through it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Final

from proxy.errors import ChannelProhibited, ChannelRefused, ChannelTimeout
from proxy.errors.reasons import Reason
from proxy.relay.budget import MemoryBudget
from proxy.relay.interfaces import Channel, OpenRequest
from proxy.runtime.endpoint import Endpoint
from proxy.snapshots import SiteLinkSnapshot
from proxy.ssh.internals import Connection
from proxy.ssh.link import Link
from proxy.ssh.open_requests import Limit
from proxy.ssh.sites.asking import Asking
from proxy.ssh.sites.forwards import Forwards
from proxy.ssh.sites.socks5 import UNSUPPORTED_METHOD, ConnectReply, MethodReply, connect_request
from proxy.ssh.turns import Turns

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
        if (fixed := self.forwards.fixed(target)) is not None:
            return await self.open_channel(fixed, origin=origin, timeout=timeout, is_needed=is_needed)
        if (server := self.forwards.dynamic) is None:
            has = ", ".join(map(str, self.forwards)) or "none at all"
            raise ChannelProhibited(
                f"{self.server} has no forward for {target}; it has {has}",
                hint=f"the ssh of the site needs -R {self.forwards.site}:1080, or -R {target}:HOST:PORT",
            )
        asking = Asking(self._loop, target, connect_request(target), ConnectReply(self.server, target))
        return await self.open_channel(
            server, origin=origin, timeout=timeout, is_needed=is_needed, opening=asking
        )

    async def try_forward(self, forward: Endpoint, *, timeout: float) -> None:  # noqa: ASYNC109
        """Open a channel as a test, and close it. Raises ChannelError if the site's ssh does not know
        `forward` or is no SOCKS5 server, LinkDown if the link is lost.
        """
        if forward == self.forwards.dynamic:
            asking = Asking(self._loop, forward, UNSUPPORTED_METHOD, MethodReply(self.server))
            try:
                channel = await self.open_channel(
                    forward, origin=_OURSELVES, timeout=timeout, is_needed=False, opening=asking
                )
            except ChannelTimeout:
                raise ChannelTimeout(f"no SOCKS5 server has answered within {timeout:g} s") from None
            channel.close()
            return
        with suppress(ChannelRefused):  # ssh knows the forward, but cannot connect to its target
            channel = await self.open_channel(forward, origin=_OURSELVES, timeout=timeout, is_needed=False)
            channel.write_eof()  # if it is a SOCKS5 server after all: see `proxy.ssh.link`
            channel.close()
