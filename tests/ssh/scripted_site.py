"""A site with a dynamic forward. The test sends each of its channel messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import asyncssh
from asyncssh.packet import String

from proxy.relay.interfaces import Channel
from proxy.runtime.endpoint import Endpoint
from proxy.ssh.link import Link
from proxy.ssh.native.wire import messages
from proxy.ssh.sites.forwards import Forwards
from proxy.ssh.sites.site_link import SiteLink
from tests.ssh.carried import SECONDS
from tests.ssh.conftest import ORIGIN
from tests.ssh.scripted_peer import Script
from tests.support.ssh_served import Served

SITE: Final = "factory-7"
TARGET: Final = Endpoint("node-a", 10250)
REPLY: Final = b"\5\0" + b"\5\0\0\1" + bytes(4) + b"\0\0"
WINDOW: Final = 1 << 20
LARGEST: Final = 32 << 10


class SiteServed(Served):
    """Each client that logs in is the site, and has registered a dynamic forward."""

    def make_link(self, conn: asyncssh.SSHServerConnection) -> Link:
        forwards = Forwards(SITE, most=1, is_taken=lambda _: False)
        forwards.register(SITE, 1080, may_listen=True)
        return SiteLink(
            conn,
            forwards,
            site=SITE,
            address=ORIGIN,
            key="",
            budget=self.budget,
            turns=self.turns,
            name=SITE,
            on_open=None,
            on_refused=lambda *_: None,
            limit=lambda _: "",
        )


class Site:
    """What the site does with the channels that it is asked for, one after the other."""

    def __init__(self, link: SiteLink, script: Script) -> None:
        self.link = link
        self._script = script
        self._theirs = 0

    async def opening(self) -> asyncio.Task[Channel]:
        """A client asks for TARGET: the channel is requested, and waits for the site's answer."""
        reaching = asyncio.get_running_loop().create_task(
            self.link.reach(TARGET, origin=ORIGIN, timeout=SECONDS, is_needed=True)
        )
        self._theirs = await self._script.open_request()
        return reaching

    async def asked(self) -> asyncio.Task[Channel]:
        """A client asks for TARGET: the request has arrived, and waits for the reply."""
        reaching = await self.opening()
        self.confirm()
        await self.heard(messages.DATA)
        return reaching

    def confirm(self, window: int = WINDOW) -> None:
        self._script.send(messages.OPEN_CONFIRMATION, self._theirs, 7, window, LARGEST)

    def refuse(self) -> None:
        why = String("no such forward") + String("")
        self._script.send(messages.OPEN_FAILURE, self._theirs, messages.CONNECT_FAILED, then=why)

    def adjust(self, window: int) -> None:
        self._script.send(messages.WINDOW_ADJUST, self._theirs, window)

    def data(self, data: bytes) -> None:
        for start in range(0, len(data), LARGEST):
            self._script.send(messages.DATA, self._theirs, then=String(data[start : start + LARGEST]))

    def eof(self) -> None:
        self._script.send(messages.EOF, self._theirs)

    def close(self) -> None:
        self._script.send(messages.CLOSE, self._theirs)

    async def heard(self, kind: int) -> bytes:
        """The next message of `kind`."""
        return await self._script.receive(kind)

    async def heard_until_close(self) -> list[int]:
        """The kinds of the next messages, the last of which is CLOSE."""
        kinds = list[int]()
        async with asyncio.timeout(SECONDS):
            while messages.CLOSE not in kinds:
                kinds.append((await self._script.heard.get())[0])
        return kinds

    async def leave(self) -> None:
        """End the connection. Returns when its link knows."""
        self._script.conn.abort()
        async with asyncio.timeout(SECONDS):
            await asyncio.shield(self.link.closed)


@asynccontextmanager
async def site(folder: Path) -> AsyncIterator[tuple[Site, SiteServed]]:
    async with SiteServed(folder) as served, await served.client() as client:
        link = await served.link()
        assert isinstance(link, SiteLink)
        script = Script()
        script.take_over(client)
        yield Site(link, script), served
        client.abort()
