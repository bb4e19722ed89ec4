"""The SSH entry: clients that have logged in to the SSH server open channels to names through it
(`ssh -J`, `-W`, `-L` and `-D`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from proxy.config.allow import Rule
from proxy.config.ssh_rules import SSH
from proxy.entries.arrival import Arrival, Caller
from proxy.entries.heads.answers import codes, sentence
from proxy.entries.heads.head import target
from proxy.entries.proxy import OnArrival
from proxy.errors.reasons import Reason
from proxy.metrics import EntryRecord, Metrics, Traffic
from proxy.relay.budget import MemoryBudget
from proxy.relay.channel_relay import ChannelRelay
from proxy.relay.interfaces import Channel, OnEnd, OpenRequest, Relay
from proxy.routing.allow import is_allowed
from proxy.runtime.endpoint import Endpoint
from proxy.runtime.seldom import Seldom
from proxy.ssh.server.login import Login
from proxy.ssh.server.session import Session

log = structlog.get_logger("kubemux.connection")

SELDOM_S: Final = 10.0
"""Seconds between two lines of the log about channels of one caller that are refused for one reason."""
MOST_LINES: Final = 20
"""The maximum number of such lines in `SELDOM_S` seconds, if each names the requested target.

It is enough to show a scan, and too few to fill a disk.
"""


class SshEntry:
    """Turns each channel request of an SSH client into an arrival, and passes it to `on_arrival`."""

    def __init__(self, metrics: Metrics, on_arrival: OnArrival) -> None:
        self._metrics = metrics
        self._on_arrival = on_arrival
        self._refusals: dict[tuple[str, Reason], Seldom] = {}
        self._refused_names: dict[tuple[str, Reason], Seldom] = {}
        self.closed_because = ""
        """If not empty, every request is refused, and this is the message."""

    def __repr__(self) -> str:
        return f"<SshEntry {self.closed_because or 'open'}>"

    def asked(self, session: Session, request: OpenRequest) -> None:
        """Handle a channel request of a client that has logged in."""
        login = _login(session)
        record = self._metrics.entry(SSH)
        record.opened += 1
        try:
            asked = target(str(request.target))
        except ValueError as exc:
            _refuse(SshArrival(request, session, record, self._lines_due), Reason.BAD_REQUEST, str(exc))
            return
        arrival = SshArrival(request, session, record, self._lines_due, asked)
        if self.closed_because:
            _refuse(arrival, Reason.SHUTDOWN, self.closed_because)
        elif not login.may_open(asked):
            self._metrics.denied(SSH, Reason.DENIED)
            _refuse(arrival, Reason.DENIED, login.why_not(asked))
        else:
            self._on_arrival(arrival)

    def _lines_due(self, caller: str, reason: Reason) -> int:
        due = self._refused_names.get((caller, reason))
        if due is None:
            due = self._refused_names[caller, reason] = Seldom(SELDOM_S, MOST_LINES)
        return due()

    def refused(self, session: Session, reason: Reason, message: str) -> None:
        """Count a channel that was refused at once: its request is malformed, or the client has too many.

        One line of the log stands for many channels: a client may ask for thousands in a second.
        """
        login = _login(session)
        record = self._metrics.entry(SSH)
        record.opened += 1
        record.ended(reason)
        due = self._refusals.setdefault((login.identity, reason), Seldom(SELDOM_S))
        if channels := due():
            log.warning(
                "channels refused",
                client=str(login.address),
                entry=SSH,
                caller=login.identity,
                reason=reason,
                message=message,
                channels=channels,
                hint=reason.remedy,
            )


def _login(session: Session) -> Login:
    """Who has logged in, with the options of the key as they are now."""
    assert session.login is not None  # noqa: S101 - a client opens no channel before its login
    return session.login


def _refuse(arrival: Arrival, reason: Reason, message: str) -> None:
    arrival.refuse(reason, message)
    arrival.ended(reason)
    arrival.log_refused(reason, message=message)


class SshArrival(Arrival):
    """A channel request of an SSH client, until it is accepted or refused."""

    __slots__ = ("_is_site", "_lines_due", "_record", "_request", "_session")

    is_answered = True

    def __init__(
        self,
        request: OpenRequest,
        session: Session,
        record: EntryRecord,
        lines_due: Callable[[str, Reason], int],
        asked: Endpoint | None = None,
    ) -> None:
        """`lines_due(identity, reason)`: see `Arrival.lines_due`."""
        login = _login(session)
        caller = Caller(login.address, proved=frozenset({login.identity}))
        self._is_site = login.kind == "site"
        super().__init__(caller, entry=SSH, asked=asked, needs_allow=self._is_site)
        self._request = request
        self._session = session
        self._record = record
        self._lines_due = lines_due
        if asked is not None:
            session.open[asked] += 1

    def is_still_allowed(self, allow: tuple[Rule, ...] | None) -> bool:
        if allow is None and self._is_site:
            return False
        may_open = self.asked is None or _login(self._session).may_open(self.asked)
        return may_open and is_allowed(allow, self.caller.proved)

    def lines_due(self, reason: Reason) -> int:
        """See `Arrival.lines_due`: a client may ask for thousands of channels in a second."""
        return self._lines_due(self.caller.identity, reason)

    def relay(self, channel: Channel, traffic: Traffic, budget: MemoryBudget, on_end: OnEnd) -> Relay:
        return ChannelRelay(channel, traffic, budget, on_end, self._request.accept)

    def refuse(self, reason: Reason, message: str = "") -> None:
        """Refuse the channel. A site gets `denied` for an unknown name, too, so that it does not learn which
        names exist.
        """
        if self._is_site and reason is Reason.UNKNOWN_NAME:
            reason, message = Reason.DENIED, f"{self.caller.identity} is not in allow"
        subject = self.asked.host if self.asked else ""
        self._request.refuse(codes(reason).failure, sentence(reason, message, subject))

    def ended(self, reason: Reason) -> None:
        self._record.ended(reason)
        if self.asked is not None:
            self._session.open[self.asked] -= 1
            if not self._session.open[self.asked]:
                del self._session.open[self.asked]
