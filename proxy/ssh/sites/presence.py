"""Whether a site is connected and since when, whether it flaps, and its last refusal."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import structlog

from proxy.errors import LinkDown, LinkError
from proxy.errors.reasons import Reason
from proxy.snapshots import GatewayState, RefusalSnapshot
from proxy.ssh.sites.flapping import WINDOW_S, Flapping

log = structlog.get_logger("kubemux.site")

AWAY_S: Final = 3.0
"""The metrics show a site as connected for this long after its last link: systemd may restart its ssh."""
_AWAY_HINT: Final = (
    "does its ssh run, and can it reach this machine? What it prints there, or the log of kubemux here, "
    "says why its login fails"
)


@dataclass(frozen=True, slots=True)
class _Refusal:
    reason: Reason
    message: str
    at: float


class Presence:
    """The presence of one site. It is connected while a link serves."""

    def __init__(self, site: str) -> None:
        self._site = site
        self._loop = asyncio.get_running_loop()
        self._came_at: float | None = None
        """Since when the site is connected without a gap; None while it has no link."""
        self._left_at = self._loop.time()
        self._has_come = False
        self._flapping = Flapping()
        self._refusal: _Refusal | None = None

    def __repr__(self) -> str:
        return f"<Presence of {self._site} connected={self.connected}>"

    # ---------------------------------------------------------------------------------------- what happens

    def logged_in(self) -> bool:
        """Record a login. Returns whether the site flaps."""
        if self._flapping.logged_in(self._loop.time()):
            log.warning(
                "site flaps",
                site=self._site,
                message=f"it comes and goes: its links are at level debug until it stays for {WINDOW_S:g} s",
                hint="the ssh of the site says why it ends; does one key belong to two machines?",
            )
        return bool(self._flapping)

    def has_calmed(self) -> bool:
        """Whether the flapping has ended. Returns True once."""
        is_over = self._flapping.is_over(self._loop.time())
        if is_over:
            log.info("site flaps no more", site=self._site)
        return is_over

    def changed(self, *, is_up: bool) -> None:
        """Record whether a link serves."""
        if is_up and self._came_at is None:
            self._came_at, self._has_come = self._loop.time(), True
        elif not is_up and self._came_at is not None:
            self._came_at, self._left_at = None, self._loop.time()

    def refused(self, reason: Reason, message: str) -> None:
        """Keep the last refusal of a login or a forward for the status."""
        self._refusal = _Refusal(reason, message, self._loop.time())

    # ---------------------------------------------------------------------------------------- what is known

    @property
    def is_connected(self) -> bool:
        """For metrics: whether a link is up, or was up less than AWAY_S ago."""
        return self._came_at is not None or (self._has_come and self._loop.time() - self._left_at < AWAY_S)

    @property
    def is_steady(self) -> bool:
        """Whether `is_connected` and `has_calmed` change only if the site comes or goes."""
        return not self._flapping and (self._came_at is not None or not self.is_connected)

    @property
    def connected(self) -> float | None:
        """For how many seconds the site has been connected; None if it is away."""
        return None if self._came_at is None else self._loop.time() - self._came_at

    @property
    def away(self) -> float | None:
        """For how many seconds the site has been away; None if it is connected."""
        return None if self._came_at is not None else self._loop.time() - self._left_at

    @property
    def without_link(self) -> GatewayState:
        """The state of the site while it has no link."""
        return GatewayState.DOWN if self._has_come else GatewayState.CONNECTING

    @property
    def refusal(self) -> RefusalSnapshot | None:
        """The last refusal; None if there was none."""
        if (one := self._refusal) is None:
            return None
        return RefusalSnapshot(one.reason, one.message, self._loop.time() - one.at)

    def why_away(self, failure: LinkError | None, *, calls_only: bool) -> LinkError | LinkDown | None:
        """Why the site is away; None if it is connected. `failure` is why its last link ended, if that is
        useful. `calls_only` says that the site is logged in without a forward.
        """
        if self._came_at is not None:
            return None
        if calls_only:
            return LinkDown(
                "it has logged in, and its ssh has no -R",
                hint=f"add -R {self._site}:1080; kubemux site add {self._site} prints the whole command",
            )
        if failure is not None:
            return failure
        since = "since its last link was closed" if self._has_come else "since kubemux started"
        return LinkDown(f"it has not come {since}", hint=_AWAY_HINT)
