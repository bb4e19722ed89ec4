"""The connection of a user, from the login to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from proxy.config.model import KeepaliveConfig
from proxy.errors import KeepaliveTimeout, LinkClosed, LinkError, LinkLost
from proxy.errors.reasons import Reason
from proxy.relay.budget import MemoryBudget
from proxy.relay.interfaces import OpenRequest
from proxy.runtime.endpoint import Endpoint
from proxy.runtime.seldom import Seldom
from proxy.runtime.tasks import Tasks
from proxy.runtime.text import printable
from proxy.snapshots import LoginSnapshot
from proxy.ssh import serving
from proxy.ssh.errors import is_hung_up
from proxy.ssh.link import Link
from proxy.ssh.open_requests import Limit
from proxy.ssh.server.login import Login
from proxy.ssh.server.session import Guest, Session
from proxy.ssh.turns import Turns

log = structlog.get_logger("kubemux.ssh_server")

NO_FORWARD: Final = "-R is for sites, and this is a user"

SELDOM_S: Final = 10.0
"""Seconds between two log entries about the forwards that one connection requests."""
KEEPALIVE: Final = KeepaliveConfig(interval=15.0, max_missed=8)
"""Two minutes, so that a laptop can change its network. Without a keepalive (the default of sshd), a lost
connection and its channels would stay for hours.
"""


class User(Guest):
    """One login of a user, and the link on which the user opens channels."""

    def __init__(
        self,
        session: Session,
        login: Login,
        on_open: Callable[[OpenRequest], None],
        on_refused: Callable[[Reason, str], None],
        *,
        name: str,
        budget: MemoryBudget,
        turns: Turns,
        limit: Limit,
        tasks: Tasks,
    ) -> None:
        """Call this as soon as the login is complete. All users share `tasks`."""
        self._session = session
        self._login = login
        self._tasks = tasks
        self._link = Link(
            (session.conn,),
            server=f"{login.identity} at {login.address}",
            budget=budget,
            turns=turns,
            name=name,
            on_open=on_open,
            on_refused=on_refused,
            limit=limit,
        )
        serving.on_forward(session.conn, self._forward, lambda *_: False)
        self._link.start(KEEPALIVE, lambda _: None, self._missed)
        self._was_closed = False
        self._forwards = Seldom(SELDOM_S)
        self.ended = tasks.spawn(self._until_the_end(), name=name)
        """Done when the connection is closed."""

    def __repr__(self) -> str:
        return f"<User {self._link}>"

    @property
    def channels(self) -> int:
        """How many channels are open, or have no answer yet."""
        return self._link.load

    def snapshot(self) -> LoginSnapshot:
        """The connection at this moment."""
        return LoginSnapshot(
            address=str(self._login.address),
            age=self._link.age,
            key=self._login.fingerprint,
            certificate=printable(self._login.certificate),
            channels=self.channels,
            open=tuple(sorted(map(str, self._session.open))),
        )

    def lost(self, exc: Exception | None) -> None:
        """See `proxy.ssh.server.session.Guest`. The link notices the end by itself."""
        self._was_closed = exc is None or is_hung_up(exc)

    def recheck(self) -> None:
        """See `proxy.ssh.server.session.Guest`. A user has nothing but channels."""

    def ends(self, error: LinkError) -> None:
        """See `proxy.ssh.server.session.Guest`."""
        self._link.protocol_broken(error)

    async def leave(self) -> None:
        """Wait until the user has no channel, then end the connection."""
        await self._link.idle.wait()
        if self._link.closed.done():
            return
        self.ends(LinkClosed("kubemux stops"))
        self._session.disconnect("kubemux stops: connect again")

    def _forward(self, host: str, port: int) -> bool:
        """Refuse `-R`. RFC 4254 4 has no text for a refusal, so it is sent as a debug message: ssh prints it
        with -v only. Therefore the log has it, too: one line for many, as a client may ask again and again.
        """
        self._session.conn.send_debug(f"kubemux: {NO_FORWARD}", always_display=True)
        if forwards := self._forwards():
            log.warning(
                "forward refused",
                client=str(self._login.address),
                caller=self._login.identity,
                forward=printable(str(Endpoint(host, port))),
                forwards=forwards,
                message=NO_FORWARD,
            )
        return False

    def _missed(self, count: int) -> None:
        if count >= KEEPALIVE.max_missed:
            error = KeepaliveTimeout(f"{self._link.server} stopped answering")
            self._tasks.spawn(self._link.close(error), name=f"close {self._link.name}")

    async def _until_the_end(self) -> None:
        try:
            error = await asyncio.shield(self._link.closed)
            has_left = self._was_closed and isinstance(error, LinkLost)
            log.info(
                "logged out",
                client=str(self._login.address),
                caller=self._login.identity,
                reason=Reason.CLIENT_CLOSED if has_left else error.reason,
                **({} if has_left else {"message": str(error)}),
                seconds=round(self._link.age, 3),
            )
        finally:
            await self._link.close()
