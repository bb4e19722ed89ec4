"""The daemon's sites. Each login of a site becomes a link of that site."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Final

from proxy.config.diff import Change
from proxy.config.model import Config
from proxy.daemon.connections import Shared
from proxy.daemon.heartbeat import Part
from proxy.daemon.retiring import Retiring
from proxy.daemon.served_site import ServedSite
from proxy.errors.reasons import Reason
from proxy.relay.interfaces import OpenRequest
from proxy.ssh.server.login import Refused
from proxy.ssh.server.session import Guest, Session
from proxy.ssh.sites.site import Site
from proxy.ssh.turns import Turns

OnOpen = Callable[[Session, OpenRequest], None]
OnRefused = Callable[[Session, Reason, str], None]

_GONE: Final = "this site is not configured"


class Sites(Mapping[str, ServedSite]):
    """The sites, by name."""

    def __init__(
        self,
        shared: Shared,
        turns: Turns,
        on_change: Callable[[str], None],
        *,
        on_open: OnOpen,
        on_refused: OnRefused,
    ) -> None:
        """`on_change` is called with the name of a site after one of its links began to serve or ended.
        `on_open` is called with each channel request of a site, `on_refused` with those that are refused
        before.
        """
        self._shared = shared
        self._turns = turns
        self._on_change = on_change
        self._on_open = on_open
        self._on_refused = on_refused
        self._sites: dict[str, ServedSite] = {}

    def __getitem__(self, name: str) -> ServedSite:
        return self._sites[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sites)

    def __len__(self) -> int:
        return len(self._sites)

    def logged_in(self, session: Session) -> Guest:
        """Return the owner of a site's connection, after its login. Raises Refused."""
        assert session.login is not None  # noqa: S101 - the SSH server calls this after a login
        site = self._sites.get(session.login.name)
        if site is None:  # a reload has removed the site already, but not yet its keys
            raise Refused(Reason.KEY_REMOVED, _GONE)
        return site.site.logged_in(session)

    def start(self, config: Config) -> None:
        """Accept logins of all sites."""
        for name in config.sites:
            self._add(config, name)

    def reconfigure(self, config: Config, change: Change, retiring: Retiring, seconds: float) -> None:
        """Use another configuration. A removed site keeps its connections for up to `seconds` (drain)."""
        for name in change.removed:
            site = self._sites.pop(name)
            retiring.add(site.retire(seconds), f"site {name}")
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
            on_open=self._on_open,
            on_refused=self._on_refused,
            on_change=partial(self._changed, name),
        )
        self._sites[name] = ServedSite(site, record, self._shared)
        site.start()

    def parts(self) -> Iterator[Part]:
        """The functions that the heartbeat calls: none for a site that is idle."""
        for name, site in self._sites.items():
            if site.site.is_awake or site.connections.active:
                yield f"site {name}", site.beat

    def refused(self, asked: str, reason: Reason, message: str) -> None:
        """Show in the status of the site `asked` that a login with this name was refused."""
        if (site := self._sites.get(asked)) is not None:
            site.site.refused(reason, message)

    def _changed(self, name: str) -> None:
        if (site := self._sites.get(name)) is not None:
            site.note()
        self._on_change(name)

    async def close(self) -> None:
        """End every link."""
        await asyncio.gather(*(site.retire(0) for site in self._sites.values()))
