"""The sites of the daemon: who has logged in as one of them is a link of its way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from proxy.config.diff import Change
from proxy.config.model import Config
from proxy.daemon.connections import Shared
from proxy.daemon.served_site import ServedSite
from proxy.errors import LinkError
from proxy.runtime.tasks import Tasks
from proxy.ssh.server.session import Guest, Session
from proxy.ssh.sites.site import Site
from proxy.ssh.turns import Turns

_GONE: Final = "this site is not configured"


class Sites(Mapping[str, ServedSite]):
    """All of them, by name."""

    def __init__(self, shared: Shared, turns: Turns, on_change: Callable[[str], None]) -> None:
        """`on_change` gets the name of a site whose links have come or ended."""
        self._shared = shared
        self._turns = turns
        self._on_change = on_change
        self._sites: dict[str, ServedSite] = {}

    def __getitem__(self, name: str) -> ServedSite:
        return self._sites[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sites)

    def __len__(self) -> int:
        return len(self._sites)

    def logged_in(self, session: Session) -> Guest:
        """Take over the login of a site."""
        assert session.login is not None  # noqa: S101 - the SSH server calls this after a login
        site = self._sites.get(session.login.name)
        if site is None:  # a reload has removed it, and its keys a moment later
            return _Unknown(session)
        return site.site.logged_in(session)

    def start(self, config: Config) -> None:
        """Let all sites come."""
        for name in config.sites:
            self._add(config, name)

    def reconfigure(self, config: Config, change: Change, retiring: Tasks, seconds: float) -> None:
        """Use another configuration. A site that is removed has `seconds` for its connections."""
        for name in change.removed:
            site = self._sites.pop(name)
            retiring.spawn(site.retire(seconds), name=f"site {name}")
            self._shared.metrics.forget_site(name)
        for name in (*change.changed, *change.renewed, *change.adjusted, *change.kept):
            self._sites[name].reconfigure(config.sites[name])
        for name in change.added:
            self._add(config, name)

    def _add(self, config: Config, name: str) -> None:
        record = self._shared.metrics.site(name)
        site = Site(
            name,
            config.sites[name],
            budget=self._shared.budget,
            turns=self._turns,
            record=self._shared.metrics.gateway(name),
            is_taken=self._sites.__contains__,
            on_change=lambda: self._changed(name),
        )
        self._sites[name] = ServedSite(site, record, self._shared)
        site.start()

    def _changed(self, name: str) -> None:
        if (site := self._sites.get(name)) is not None:
            self._shared.metrics.site(name).is_connected = site.site.is_up
        self._on_change(name)

    async def close(self) -> None:
        """End every link."""
        await asyncio.gather(*(site.retire(0) for site in self._sites.values()))


class _Unknown(Guest):
    """A site that is configured no more."""

    def __init__(self, session: Session) -> None:
        session.turn_away(_GONE)

    def lost(self, exc: Exception | None) -> None:
        """Nobody waits for it."""

    def ends(self, error: LinkError) -> None:
        """See `lost`."""
