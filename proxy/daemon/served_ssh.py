"""The SSH server with its listener, its host keys and the keys of sites and users."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Final

import structlog

from proxy.config import authorized, credentials, key_table, references
from proxy.config.files import Unusable
from proxy.config.findings import Loc, dotted
from proxy.config.key_table import Lines
from proxy.config.model import Config, SiteConfig, SshServerConfig, UserConfig
from proxy.config.ssh_rules import SSH
from proxy.daemon.connections import Shared
from proxy.daemon.file_scan import FileScan
from proxy.daemon.sites import Sites
from proxy.daemon.users import Users
from proxy.entries.arrival import Caller
from proxy.entries.fd_store import FdStore
from proxy.entries.keeping import KeptListener
from proxy.entries.listener import Listener
from proxy.entries.ssh_entry import SshEntry
from proxy.errors.reasons import Reason
from proxy.runtime.blocking import FILES_S, Hangs, Place
from proxy.runtime.endpoint import Local
from proxy.runtime.tasks import Tasks
from proxy.snapshots import EntrySnapshot, UserSnapshot
from proxy.ssh.server import host_keys
from proxy.ssh.server.server import SshServer
from proxy.ssh.server.session import Guest, Session
from proxy.ssh.turns import Turns

log = structlog.get_logger("kubemux.ssh_server")

RETRY_S: Final = 5.0
"""Seconds until a file that could not be read is read again."""


class ServedSsh:
    """The daemon's SSH server, if the configuration has one."""

    def __init__(
        self,
        shared: Shared,
        turns: Turns,
        entry: SshEntry,
        sites: Sites,
        *,
        store: FdStore,
        on_keys: Callable[[], None],
        on_change: Callable[[], None],
    ) -> None:
        """`on_keys` is called after the keys have been read again: they may no longer permit open channels.
        `on_change` is called after a change that `status` shows.
        """
        self.listener: KeptListener | None = None
        self.server = SshServer(
            on_login=self._logged_in, on_refused=sites.refused, record=shared.metrics.logins
        )
        self._metrics = shared.metrics
        self._entry = entry
        self._sites = sites
        self._users = Users(shared, turns, entry)
        self._store = store
        self._on_keys = on_keys
        self._on_change = on_change
        self._config: Config | None = None
        self._place = Place("host keys of ssh_server")
        self._scan = FileScan()
        self._lines: dict[Loc, tuple[SiteConfig | UserConfig, Lines]] = {}
        self._revoked: frozenset[bytes] = frozenset()
        self._logged: dict[Loc, tuple[str, ...]] = {}
        self._loading = asyncio.Lock()
        self._unusable: tuple[str, str] | None = None
        """If no host key can be used: the message and the hint for the status."""
        self._tasks = Tasks("files of ssh_server")

    def __repr__(self) -> str:
        return f"<ServedSsh {self.server} {self.listener}>"

    @property
    def is_listening(self) -> bool:
        """Whether the listener is bound; True if the configuration has no SSH server."""
        return self.listener is None or self.listener.is_bound

    def detach_listener(self, config: Config) -> KeptListener | None:
        """If the new configuration changes or removes the address, return the listener for its next owner."""
        given_up = self.listener
        if given_up is None or (config.ssh_server and config.ssh_server.listen == given_up.address):
            return None
        self.listener = None
        self._tasks.spawn(given_up.close(), name="listener")
        return given_up

    async def reconfigure(self, config: Config, listeners: Mapping[Local, Listener]) -> None:
        """Use these settings, and read all files again. If another program has the address, keep trying to
        bind it. `listeners` are bound listeners of owners that the reload has removed, by address.

        It also ends all penalties, as a restart of sshd does: who has just added a key need not wait until
        the penalty for its failed logins is over.
        """
        self._config = config
        self._users.reconfigure(config)
        await self._read_keys()
        self.server.clear_penalties()
        if (server := config.ssh_server) is None:
            self.server.close_startups()
            self._metrics.forget_entry(SSH)
            return
        await self._use_host_keys()
        if self.listener is None:
            await self._store.wait_until_free([server.listen])
            self.listener = KeptListener(
                server.listen,
                self._accept,
                self._store,
                owner={"entry": SSH},
                on_change=self._on_change,
                listener=listeners.get(server.listen),
            )
            await self.listener.start()

    def _logged_in(self, session: Session) -> Guest:
        is_site = session.login is not None and session.login.kind == "site"
        return (self._sites if is_site else self._users).logged_in(session)

    def _accept(self, sock: socket.socket, caller: Caller) -> None:
        self.server.accept(sock, caller.origin)

    def renew(self, changed: Collection[Loc] | None = None) -> None:
        """Read the files of these sections again, because the files have changed. None means all sections."""
        self._tasks.spawn(self._renew(changed), name="renew")

    async def _renew(self, changed: Collection[Loc] | None) -> None:
        if changed is None or references.SSH_SERVER in changed:
            await self._use_host_keys()
        await self._read_keys(changed)

    async def _use_host_keys(self) -> None:
        """Read the host keys and the revoked keys. If they cannot be read, the previous ones stay in use. If
        there are none, no client can log in.
        """
        async with self._loading:
            if self._config is None or (server := self._config.ssh_server) is None:
                return
            try:
                keys, self._revoked = await self._place.run(_read_own, server, timeout=FILES_S)
                self.server.use(server, keys)
                self.server.use_table(replace(self.server.table, revoked=self._revoked))
                self._unusable = None
            except (Unusable, Hangs) as exc:
                hint = exc.hint if isinstance(exc, Unusable) else credentials.HANGS
                log.warning("file cannot be used", entry=SSH, message=str(exc), hint=hint)
                if not self.server.is_usable:
                    self._unusable = f"nobody can log in: {exc}", hint
                    self._tasks.spawn(self._try_again(), name="read again")

    async def _renew_later(self, sections: Collection[Loc]) -> None:
        await asyncio.sleep(RETRY_S)
        await self._read_keys(sections)

    async def _try_again(self) -> None:
        await asyncio.sleep(RETRY_S)
        await self._use_host_keys()

    async def _read_keys(self, changed: Collection[Loc] | None = None) -> None:
        """Read the keys of all sites and users, or of the sections in `changed`.

        The keys of a file that cannot be used are dropped. If a file hangs, or could not be read because of
        this machine (`Unread`), it may be unchanged: all keys of its section stay in use, and it is read
        again later.
        """
        async with self._loading:
            sections = {
                loc: one
                for loc, one in (references.sections(self._config) if self._config else {}).items()
                if isinstance(one, SiteConfig | UserConfig)
            }
            before = {
                loc: lines
                for loc, (one, lines) in self._lines.items()
                if loc in sections and _keys(sections[loc]) == _keys(one)
            }
            looked = {
                loc: one
                for loc, one in sections.items()
                if changed is None or loc in changed or loc not in before
            }
            found = await self._scan.run(looked, _read_lines)
            good = {loc: lines for loc, lines in found.items() if lines.is_complete}
            self._lines = {
                loc: (one, good.get(loc) or before.get(loc) or found.get(loc) or Lines())
                for loc, one in sections.items()
            }
            for loc, lines in found.items():
                self._log_unused(loc, lines)
            if later := looked.keys() - good.keys():
                self._tasks.spawn(self._renew_later(later), name="read again")
            table, twice = key_table.table(lines for _, lines in self._lines.values())
            for first, second in twice:
                log.warning("key lets nobody in", message=f"{second} has the same key as {first}")
            self.server.use_table(replace(table, revoked=self._revoked))
            self._on_keys()

    def _log_unused(self, loc: Loc, lines: Lines) -> None:
        """Log the lines and files that cannot be used. The same ones are not logged again."""
        unused = [*lines.findings, *lines.warnings]
        told = tuple(finding.message for finding in unused)
        if told == self._logged.get(loc, ()):
            return
        self._logged[loc] = told
        for finding in unused:
            log.warning(
                "key lets nobody in" if lines.is_complete else "file cannot be used",
                key=dotted(finding.loc),
                message=finding.message,
                hint=finding.hint,
            )

    def snapshot(self) -> tuple[EntrySnapshot, ...]:
        """The SSH entry; empty if the configuration has no SSH server."""
        if self._config is None or (server := self._config.ssh_server) is None:
            return ()
        reason, message, hint = "", "", ""
        if self.listener is not None and (error := self.listener.error):
            reason, message, hint = error.reason, str(error), error.hint
        elif self._unusable:
            reason, message, hint = (Reason.CREDENTIALS_UNUSABLE, *self._unusable)
        record = self._metrics.entry(SSH)
        return (
            EntrySnapshot(
                name=SSH,
                listen=str(server.listen),
                listening=self.listener is not None and self.listener.is_bound,
                reason=reason,
                message=message,
                hint=hint,
                connections=record.active,
                connections_total=record.opened,
            ),
        )

    def users(self) -> tuple[UserSnapshot, ...]:
        """The users, with their connections."""
        return self._users.snapshot()

    def stop_accepting(self) -> None:
        """Close the listening socket, and every connection that has not logged in. Refuse new channels. End
        the connection of each user as soon as it has no channel.
        """
        self._entry.closed_because = "kubemux stops"
        self._users.leave()
        if self.listener is not None:
            self.listener.stop_accepting()
        self.server.close_startups()

    async def close(self) -> None:
        """End every client."""
        await self._tasks.close()
        if self.listener is not None:
            await self.listener.close()
        await self.server.close()
        await self._users.close()


def _keys(section: SiteConfig | UserConfig) -> tuple[object, ...]:
    """What the keys of a section depend on, besides the contents of its files."""
    return section.authorized_keys, section.cert_authority, section.principals


def _read_own(server: SshServerConfig) -> tuple[host_keys.Keys, frozenset[bytes]]:
    return host_keys.read(server.host_keys), authorized.read_revoked(server.revoked_keys)


def _read_lines(loc: Loc, section: references.Section) -> Lines:
    return authorized.read(loc, section) if isinstance(section, SiteConfig | UserConfig) else Lines()
