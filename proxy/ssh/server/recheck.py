"""Decides again about a client that has logged in: its key may be removed, changed or expired since."""

from __future__ import annotations

import asyncssh
import structlog

from proxy.config.key_table import Table
from proxy.errors import KeyExpired, KeyRemoved, LinkError
from proxy.errors.reasons import Reason
from proxy.ssh.server.login import Refused, decide
from proxy.ssh.server.session import Session

log = structlog.get_logger("kubemux.ssh_server")


def has_expired(session: Session, now: float) -> bool:
    """Whether the client has logged in with a key that has expired since. `now` is Unix time."""
    end = None if session.login is None else session.login.expires
    return end is not None and end <= now


def recheck(session: Session, table: Table, now: float) -> None:
    """End the login if `table` no longer allows it. Otherwise the options of its key in `table` apply."""
    if (login := session.login) is None:
        return
    try:
        again = decide(table, login.blob, asked=login.asked, address=login.address, now=now)
    except Refused as exc:
        kind = KeyExpired if exc.reason is Reason.KEY_EXPIRED else KeyRemoved
        _end(session, kind(f"{login.identity} may not be connected any more: {exc}"))
    else:
        if again.who == login.who:
            session.login = again
            if session.guest is not None:
                session.guest.recheck()
        else:
            _end(session, KeyRemoved(f"the key of {login.identity} is {again.identity}'s now"))


def _end(session: Session, error: LinkError) -> None:
    log.info("login ends", client=str(session.visit.address), reason=error.reason, message=str(error))
    if session.guest is not None:
        session.guest.ends(error)
    session.conn.disconnect(asyncssh.DISC_BY_APPLICATION, f"kubemux: {error.reason}: {error.reason.meaning}")
