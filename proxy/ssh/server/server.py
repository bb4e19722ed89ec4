"""The SSH server: it owns accepted sockets, logs clients in, and ends the logins whose key was removed."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import asyncssh
import structlog

from proxy.config.key_table import Table
from proxy.config.model import SshServerConfig
from proxy.errors import LinkClosed
from proxy.errors.reasons import Reason
from proxy.metrics.records import LoginRecord
from proxy.runtime.endpoint import Endpoint
from proxy.runtime.tasks import Tasks
from proxy.runtime.text import printable
from proxy.ssh.server import host_keys
from proxy.ssh.server.gate import Gate
from proxy.ssh.server.login import Login, Refused
from proxy.ssh.server.penalties import Penalties
from proxy.ssh.server.recheck import has_expired, recheck
from proxy.ssh.server.refusals import OnRefused, Refusals
from proxy.ssh.server.session import Connection, Guest, Session, TurnedAway, Visit
from proxy.ssh.server.startups import Source, Startups

log = structlog.get_logger("kubemux.ssh_server")

CLOSE_S: Final = 2.0
CHECK_S: Final = 1.0
"""Seconds between two checks for logins that have expired."""
_NOT_NOW: Final = b"Not allowed at this time\r\n"
"""Sent before a connection is closed at once, as sshd does. RFC 4253 4.2 allows lines before the version."""

Options = asyncssh.SSHServerConnectionOptions
OnLogin = Callable[[Session], Guest]


class SshServer:
    """Logs clients in. `on_login` returns the owner of each connection after its login."""

    def __init__(
        self,
        *,
        on_login: OnLogin,
        record: LoginRecord,
        on_refused: OnRefused = lambda *_: None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`on_refused` gets the user name of a refused client, the reason and a sentence. The user name is
        not proved: any client can send any name. `now` returns Unix time. Until `use` has been called, every
        connection is closed.
        """
        self.table = Table()
        self.gate = Gate()
        self.now = now
        self._on_login = on_login
        self._record = record
        self._options: Options | None = None
        self._startups = Startups()
        self._penalties = Penalties()
        self._refusals = Refusals(record, self._penalties, on_refused)
        self._waiting: deque[tuple[socket.socket, Endpoint, Source]] = deque()
        """Connections from the operator's own networks (`sources`) that wait for their turn."""
        self.under_way = 0
        """How many connections from these networks are logging in now."""
        self._sessions: set[Session] = set()
        self._is_closing = False
        self._watching: asyncio.Task[None] | None = None
        self._tasks = Tasks("ssh server")
        self._loop = asyncio.get_running_loop()

    def __repr__(self) -> str:
        return f"<SshServer logins={len(self.live)} before={len(self._startups)}>"

    @property
    def live(self) -> list[Session]:
        """The clients that have logged in."""
        return [session for session in self._sessions if session.login is not None]

    @property
    def is_usable(self) -> bool:
        """Whether it has host keys."""
        return self._options is not None

    # ------------------------------------------------------------------------------------------- settings

    def use(self, config: SshServerConfig, keys: list[asyncssh.SSHKey]) -> None:
        """Use these settings and host keys for new connections."""
        self._startups.config, self._is_closing = config, False
        if self._watching is None:
            self._watching = self._tasks.keep(self._watch, name="expiry")
        self._options = host_keys.options(keys, lambda: Session(self), login_timeout=config.login_timeout)

    def clear_penalties(self) -> None:
        """Let sources log in that are locked out."""
        if sources := len(self._penalties):
            log.info("sources may log in again", sources=sources)
        self._penalties.clear()

    def use_table(self, table: Table) -> None:
        """Look keys up in this table from now on. End the logins that it does not allow."""
        self.table = table
        self.recheck()

    def recheck(self) -> None:
        """End the logins whose key is no longer accepted."""
        for session in self.live:
            recheck(session, self.table, self.now())

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(CHECK_S)
            if any(has_expired(session, self.now()) for session in self._sessions):
                self.recheck()

    # ------------------------------------------------------------------------------------------- clients

    def accept(self, sock: socket.socket, address: Endpoint) -> None:
        """Begin the login of a client. The server owns the non-blocking socket `sock` from now on."""
        source = self._startups.source(address.host)
        options = self._options
        if options is None:
            self._close(sock, Reason.CREDENTIALS_UNUSABLE)
        elif self._penalties.seconds_left(source, self._loop.time()):
            self._close(sock, Reason.PENALTY)
        elif not self._startups.enter(source):
            self._close(sock, Reason.STARTUPS)
            self._refusals.over_limit(source)
        elif source.own is not None and self.under_way >= self._startups.config.max_startups:
            self._waiting.append((sock, address, source))
        else:
            self._begin(options, sock, address, source)

    def _close(self, sock: socket.socket, reason: Reason) -> None:
        self._record.results[reason] += 1
        with suppress(OSError):
            sock.send(_NOT_NOW)
        sock.close()

    def _begin(self, options: Options, sock: socket.socket, address: Endpoint, source: Source) -> None:
        self.under_way += source.own is not None
        conn = Connection(self._loop, options, Visit(address, source, self._loop.time()))
        self._tasks.spawn(self._connect(conn, sock), name=f"client {address}")

    async def _connect(self, conn: Connection, sock: socket.socket) -> None:
        is_there = False
        try:
            with suppress(OSError):  # the client has closed the connection
                await self._loop.connect_accepted_socket(lambda: conn, sock)
                is_there = True
        finally:
            if not is_there:
                sock.close()
                if conn.get_owner() is None:
                    self._leave_startup(conn.visit)

    def _leave_startup(self, visit: Visit) -> None:
        """A connection has logged in or is closed: begin the login of the next waiting connection."""
        self._startups.leave(visit.source)
        self._record.startups = len(self._startups)
        if visit.source.own is None:
            return
        self.under_way -= 1
        options = self._options
        while options and self._waiting and self.under_way < self._startups.config.max_startups:
            self._begin(options, *self._waiting.popleft())

    def made(self, session: Session) -> None:
        """See `proxy.ssh.server.session.Server`."""
        self._sessions.add(session)
        self._record.startups = len(self._startups)

    def logged_in(self, session: Session, login: Login) -> Guest:
        """See `proxy.ssh.server.session.Server`."""
        self._leave_startup(session.visit)
        try:
            guest = self._on_login(session)
        except Refused as exc:
            self._refusals.turned_away(session, login, exc)
            session.disconnect(f"kubemux: {exc.reason} ({exc})")
            return TurnedAway()
        self._record.results[Reason.OK] += 1
        log.info(
            "logged in",
            client=str(login.address),
            caller=login.identity,
            user=printable(login.asked),
            key=login.fingerprint,
            **({"certificate": printable(login.certificate)} if login.certificate else {}),
            seconds=round(self._loop.time() - session.visit.since, 3),
        )
        return guest

    def lost(self, session: Session, exc: Exception | None) -> None:
        """See `proxy.ssh.server.session.Server`."""
        self._sessions.discard(session)
        if session.login is not None:
            if session.guest is not None:
                session.guest.lost(exc)
            return
        self._leave_startup(session.visit)
        if not self._is_closing:
            self._refusals.failed(session, exc, login_timeout=self._startups.config.login_timeout)

    # ------------------------------------------------------------------------------------------- the end

    def close_startups(self) -> None:
        """Close every connection that has not logged in, and every new one until `use` is called again."""
        self._is_closing, self._options = True, None
        while self._waiting:
            sock, _, source = self._waiting.popleft()
            self._startups.leave(source)
            sock.close()
        for session in self._sessions.copy():
            if session.login is None:
                session.conn.abort()

    async def close(self) -> None:
        """End every connection, and wait up to CLOSE_S until their sockets are closed."""
        self.close_startups()
        sessions = self._sessions.copy()
        for session in sessions:
            if session.guest is not None:
                session.guest.ends(LinkClosed("kubemux stops"))
            session.conn.abort()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                for session in sessions:
                    await session.conn.wait_closed()
        await self._tasks.close()
