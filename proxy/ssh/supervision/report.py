"""What a gateway reports: its metrics, and a log entry for each change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import structlog

from proxy.config.learned_keys import Update, fingerprint, kind
from proxy.errors import DialBroken, LinkClosed, LinkError
from proxy.errors.reasons import Reason
from proxy.metrics.records import GatewayRecord
from proxy.snapshots import GatewayState
from proxy.ssh.link import Link
from proxy.ssh.planes import MODES
from proxy.ssh.supervision.links import Links

L = TypeVar("L", bound=Link)

log = structlog.get_logger("kubemux.gateway")


class Report:
    """Writes the log and the metrics of one gateway."""

    def __init__(
        self,
        name: str,
        record: GatewayRecord,
        *,
        remedy: Callable[[LinkError], str] = lambda error: error.hint,
    ) -> None:
        """`remedy(error)` is the hint in the log for a link that has ended."""
        self.state = GatewayState.CONNECTING
        self.reconnects = 0
        self.expiries: dict[str, float] = {}
        self.is_quiet = False
        """Whether to log at level debug only, because there are too many entries."""
        self.is_closing = False
        """Whether the gateway is closing. Then the metrics are not updated: a new gateway may use them now.
        """
        self._name = name
        self._record = record
        self._remedy = remedy
        self._log = log.bind(gateway=name)

    def start(self) -> None:
        """Create every series at once."""
        self._record.planes.update(dict.fromkeys(MODES, 0))

    def handshake(self, seconds: float) -> None:
        """A handshake succeeded."""
        self._record.handshake.observe(seconds)

    def expiry(self, kind: str, when: float | None) -> None:
        """Set until when the certificate of the user or the host is valid; None if there is none."""
        if when is not None:
            self.expiries[kind] = when
            self._record.credential_expiry[kind] = when
        elif self.expiries.pop(kind, None) is not None:
            self._record.credential_expiry.pop(kind, None)

    def learned(self, path: Path, name: bytes, update: Update) -> None:
        """The server proved new host keys, and no longer has some old ones."""
        keys, gone = (
            [f"{kind(key).decode()} {fingerprint(key)}" for key in group]
            for group in (update.new, update.gone)
        )
        self._log.warning("host keys learned", server=name.decode(), keys=keys, gone=gone, file=str(path))

    def not_learned(self, path: Path, error: Exception) -> None:
        """`learned_host_keys` could not be read or written, or the link was lost before."""
        hint = getattr(error, "hint", "") or "the daemon's user must be able to write the file and its folder"
        self._log.warning("host keys not learned", file=str(path), message=str(error), hint=hint)

    def rtt(self, seconds: float) -> None:
        """A round trip through a link."""
        if not self.is_closing:
            self._record.rtt = seconds

    def backoff(self, seconds: float) -> None:
        """Set the seconds until the next dial; 0 if none waits."""
        self._record.backoff = seconds

    def dial_failed(self, error: LinkError, before: LinkError | None, *, delay: float, kept: int) -> None:
        """A dial failed. `before` is the last failure: the same failure again is logged at level debug only.

        `kept` links are still up.
        """
        self._record.connects[error.reason] += 1
        fields: dict[str, object] = {"links_kept": kept} if kept else {}
        if before is not None and (before.reason, str(before)) == (error.reason, str(error)):
            say = self._log.debug
        elif isinstance(error, DialBroken):
            say = self._log.error
            fields["exc_info"] = error.__cause__
        else:
            say = self._log.warning
        say(
            "gateway dial failed",
            reason=error.reason,
            message=str(error),
            hint=error.hint,
            retry_in=round(delay, 1),
            **fields,
        )

    def link_up(self, link: Link, *, instead_of: Reason | None) -> None:
        """A link is up. `instead_of` is the reason why the link before it was lost or replaced."""
        self._record.connects[Reason.OK] += 1
        if instead_of is not None:
            self.reconnects += 1
            self._record.reconnects[instead_of] += 1
        say = self._log.debug if self.is_quiet else self._log.info
        say("link up", link=link.name, server=link.server)

    def replacing(self, why: str, link: Link | None = None, *, links: int = 1) -> None:
        """One link, or all of them, will be replaced."""
        if link is not None:
            self._log.info("replacing link", link=link.name, server=link.server, why=why)
        elif links:
            self._log.info("replacing links", why=why, links=links)

    def retires(self, link: Link) -> None:
        """The replacement of `link` is up."""
        self._log.info("link retires", link=link.name, server=link.server, channels=link.load)

    def link_released(self, link: Link, why: str) -> None:
        """`link` is up, but serves no longer."""
        say = self._log.debug if self.is_quiet else self._log.info
        say("link serves no longer", link=link.name, server=link.server, why=why)

    def link_ended(self, link: Link, error: LinkError) -> None:
        """`link` has ended: we have closed it, or it was lost."""
        say, event = self._log.warning, "link lost"
        if isinstance(error, LinkClosed):
            say, event = self._log.info, "link closed"
        if link.is_unused:
            say = self._log.info
        if self.is_quiet:
            say = self._log.debug
        fields = {"hint": hint} if (hint := self._remedy(error)) else {}
        seconds = round(link.age, 1)
        say(
            event,
            link=link.name,
            server=link.server,
            reason=error.reason,
            message=str(error),
            seconds=seconds,
            **fields,
        )

    def changed(self, links: Links[L], *, wanted: int, is_failing: bool, without_link: GatewayState) -> None:
        """Update the state and the metrics after a change of the links or clients. `is_failing` says whether
        the last dial failed. `without_link` is the state while there is no link.
        """
        if self.is_closing:
            return
        up, record = len(links), self._record
        if up >= wanted and not (is_failing and links.stale):
            state = GatewayState.UP
        elif up:
            state = GatewayState.DEGRADED
        else:
            state = without_link
        record.is_idle = state is GatewayState.IDLE
        record.links, record.retiring = up, len(links.retiring)
        for mode in MODES:
            record.planes[mode] = sum(link.data_plane == mode for link in links)
        if state is not self.state:
            say = self._log.warning if state is GatewayState.DOWN else self._log.info
            if self.is_quiet:
                say = self._log.debug
            say("gateway state", state=str(state), was=str(self.state), links=up)
            self.state = state
