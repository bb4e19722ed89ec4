"""Counts and logs the clients that may not log in, and adds to the penalties of their sources.

Strangers can cause as many refusals as they like, so one log entry often stands for many of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import asyncssh
import structlog

from proxy.errors.reasons import Reason
from proxy.metrics.records import LoginRecord
from proxy.runtime.seldom import Seldom
from proxy.runtime.text import printable
from proxy.ssh.server import penalties
from proxy.ssh.server.login import Login, Refused
from proxy.ssh.server.penalties import Penalties
from proxy.ssh.server.session import Session
from proxy.ssh.server.startups import Source

log = structlog.get_logger("kubemux.ssh_server")

SELDOM_S: Final = 10.0
"""Seconds between two log entries about connections that were closed because of the limits (startups), and
about clients of one source that left before they sent a user name.
"""
MOST_UNNAMED: Final = 1000
"""How many sources of such clients are remembered."""

OnRefused = Callable[[str, Reason, str], None]


class Refusals:
    """Tells the operator about refused clients."""

    def __init__(self, record: LoginRecord, penalties: Penalties, on_refused: OnRefused) -> None:
        """See `SshServer` for `on_refused`."""
        self._record = record
        self._penalties = penalties
        self._on_refused = on_refused
        self._startups = Seldom(SELDOM_S)
        self._unnamed: dict[tuple[Source, Reason], Seldom] = {}
        self._loop = asyncio.get_running_loop()

    def __repr__(self) -> str:
        return f"<Refusals sources={len(self._unnamed)}>"

    def over_limit(self, source: Source) -> None:
        """Log that connections are closed because of the limits. One entry stands for many connections."""
        if clients := self._startups():
            log.warning(
                "logins refused",
                reason=Reason.STARTUPS,
                source=str(source),
                clients=clients,
                hint=Reason.STARTUPS.remedy,
            )

    def turned_away(self, session: Session, login: Login, why: Refused) -> None:
        """Count and log a client whose key is accepted, and who may not stay nevertheless."""
        self._record.results[why.reason] += 1
        log.warning(
            "login refused",
            client=str(login.address),
            caller=login.identity,
            user=printable(login.asked),
            reason=why.reason,
            message=str(why),
            seconds=round(self._loop.time() - session.visit.since, 3),
        )

    def failed(self, session: Session, exc: Exception | None, *, login_timeout: float) -> None:
        """Count and log a connection that has ended before its login. Add to the penalty of its source."""
        _, source, since = session.visit
        now = self._loop.time()
        is_late = now - since >= login_timeout
        reason, message = _why(session, exc, is_late=is_late)
        self._record.results[reason] += 1
        self._log_refused(session, reason, message, seconds=now - since)
        self._on_refused(session.asked, reason, printable(message))
        seconds = _penalty(session, is_late=is_late)
        if source.own is None and self._penalties.add(source, seconds, now):
            left = round(self._penalties.seconds_left(source, now))
            log.warning(
                "source is closed out",
                source=str(source),
                reason=Reason.PENALTY,
                seconds=left,
                hint=Reason.PENALTY.remedy,
            )

    def _log_refused(self, session: Session, reason: Reason, message: str, *, seconds: float) -> None:
        """Log why a client has not logged in. Of clients that have not even said a user name, one entry
        stands for all of a source with the same reason: ssh-keyscan connects for each kind of key.
        """
        more = {}
        if not session.asked:
            if not (clients := self._unnamed_clients(session.visit.source, reason)):
                return
            more = {"clients": clients}
        # Port checks and scanners come all day: as warnings they would hide the others.
        log.log(
            logging.INFO if reason is Reason.NO_LOGIN else logging.WARNING,
            "login refused",
            client=str(session.visit.address),
            user=printable(session.asked),
            reason=reason,
            message=printable(message),
            hint=reason.remedy,
            seconds=round(seconds, 3),
            **more,
        )

    def _unnamed_clients(self, source: Source, reason: Reason) -> int:
        """For how many clients of this source an entry is due; 0 if none is."""
        due = self._unnamed.get((source, reason))
        if due is None:
            if len(self._unnamed) >= MOST_UNNAMED:
                del self._unnamed[next(iter(self._unnamed))]
            due = self._unnamed[source, reason] = Seldom(SELDOM_S)
        return due()


def _why(session: Session, exc: Exception | None, *, is_late: bool) -> tuple[Reason, str]:
    """Why a client has not logged in."""
    if session.refusal is not None:
        return session.refusal.reason, str(session.refusal)
    if is_late:
        return Reason.LOGIN_TIMEOUT, "it has not logged in in time"
    is_of_protocol = not isinstance(exc, OSError | asyncssh.DisconnectError) or isinstance(exc, _BROKEN)
    if exc is not None and is_of_protocol:
        return Reason.HANDSHAKE_FAILED, f"{_said(exc)}: {exc}"
    if session.has_signed:
        return Reason.NO_LOGIN, "it has left while its login succeeded"
    if session.has_tried_key:
        return Reason.NO_LOGIN, "it has shown a key that is accepted, and has not signed with it"
    if session.has_tried:
        return Reason.NO_LOGIN, "it has shown no key, and tried only other login methods"
    return Reason.NO_LOGIN, "it has left without showing a key"


def _said(exc: Exception) -> str:
    """What an error of asyncssh means, in our words."""
    if isinstance(exc, asyncssh.KeyExchangeFailed):
        return "it has no algorithms in common with kubemux, or its key exchange is wrong"
    if isinstance(exc, asyncssh.ProtocolNotSupported):
        return "it does not speak SSH 2.0"
    return "it does not keep to the SSH protocol"


def _penalty(session: Session, *, is_late: bool) -> float:
    """The penalty of the source of a client that has not logged in, in seconds."""
    if is_late:
        return penalties.TIMEOUT_S
    has_failed = session.has_tried_key and not session.has_signed
    return penalties.REFUSED_S if has_failed else penalties.NO_LOGIN_S


_BROKEN: Final = (
    asyncssh.CompressionError,
    asyncssh.IllegalUserName,
    asyncssh.KeyExchangeFailed,
    asyncssh.MACError,
    asyncssh.ProtocolError,
    asyncssh.ProtocolNotSupported,
    asyncssh.ServiceNotAvailable,
)
