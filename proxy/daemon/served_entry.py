"""An entry with its listener, its certificate and its users, and what `status` shows of them."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from typing import Final

import structlog

from proxy.config import credentials, expiry, server_tls
from proxy.config.files import Unusable
from proxy.config.listen import Permissions
from proxy.config.model import EntryConfig
from proxy.daemon.connections import Shared
from proxy.entries.arrival import Caller
from proxy.entries.fd_store import FdStore
from proxy.entries.heads import Credentials
from proxy.entries.keeping import KeptListener
from proxy.entries.listener import Listener
from proxy.entries.proxy import OnArrival, ProxyEntry
from proxy.entries.users import Users
from proxy.errors.reasons import Reason
from proxy.runtime.blocking import FILES_S, Hangs, Place
from proxy.runtime.tasks import Tasks
from proxy.snapshots import EntrySnapshot

log = structlog.get_logger("kubemux.daemon")

RETRY_S: Final = 5.0
"""Seconds between attempts to read files that an entry needs, and without which it refuses every client."""


class ServedEntry:
    """One of the daemon's entries. It calls `on_change` when something has changed that `status` shows."""

    def __init__(
        self,
        name: str,
        config: EntryConfig,
        shared: Shared,
        *,
        store: FdStore,
        on_arrival: OnArrival,
        on_change: Callable[[], None],
        listener: Listener | None = None,
    ) -> None:
        """`listener`: see `KeptListener`."""
        self.name = name
        self.config = config
        self.entry = ProxyEntry(
            name, shared.metrics.entry(name), on_arrival, check_caller=self._require_allowed
        )
        self.listener = KeptListener(
            config.listen,
            lambda sock, caller: self.entry.accept(sock, shared.access.identified(sock, caller)),
            store,
            owner={"entry": name},
            permissions=Permissions.of(config.mode, config.group),
            on_change=on_change,
            listener=listener,
        )
        self._access = shared.access
        self._place = Place(f"files of entry {name}")
        self._users: Users | None = None
        self._last_read: Users | None = None
        """The users of the last attempt. A further attempt for the same file uses them, so that only one
        thread can hang in that file.
        """
        self._loading = asyncio.Lock()
        self._ends: tuple[tuple[str, float], ...] = ()
        self._hint = ""
        """What to do if it is closed."""
        self._tasks = Tasks(f"files of entry {name}")

    def __repr__(self) -> str:
        return f"<ServedEntry {self.entry} {self.listener}>"

    async def start(self) -> None:
        """Accept clients. If the address is not free, try to bind it until it is."""
        await self._load(self.config)
        await self.listener.start()

    async def reconfigure(self, config: EntryConfig) -> None:
        """Use these settings for new clients, and read the files again.

        If files have changed, all settings change together, after the files are read. For example, a reload
        may remove `allow` because it adds `users_file`: until that is read, the old `allow` must hold.
        """
        if (config.tls, config.users_file) == (self.config.tls, self.config.users_file):
            self._use(config)
            await self._load()
        else:
            await self._load(config)

    def _use(self, config: EntryConfig) -> None:
        self.config = config
        self.listener.set_permissions(Permissions.of(config.mode, config.group))

    def renew(self) -> None:
        """Read the files again, because they have changed."""
        self._tasks.spawn(self._load(), name="renew")

    async def _load(self, new: EntryConfig | None = None) -> None:
        """Read the files of the `new` settings (None: of the present ones), and use them and the settings.

        If the files cannot be read, those that were read before stay in use; but with new settings, every
        client is refused until they can be read. With new settings, clients that have not sent their request
        yet are disconnected, because they have begun under other rules.
        """
        async with self._loading:
            config = new or self.config
            try:
                tls = await self._context(config)
                users = await self._read_users(config)
            except (Unusable, Hangs) as exc:
                hint = exc.hint if isinstance(exc, Unusable) else credentials.HANGS
                if new is not None or not self.entry.closed_because:
                    log.warning("file cannot be used", entry=self.name, message=str(exc), hint=hint)
                if new is not None:
                    if not self.entry.closed_because:
                        self._tasks.spawn(self._try_again(), name="read again")
                    self.entry.closed_because, self._hint = str(exc), hint
                    self.entry.end_requests()
                    self._use(new)
                return
            old, self._users = self._users, users
            self.entry.tls = tls
            self.entry.check_login = self._is_right if users is not None else None
            self.entry.closed_because = ""
            if new is not None:
                self.entry.end_requests()
                self._use(new)
            if old is not None and old is not users:
                await old.close()

    async def _try_again(self) -> None:
        while self.entry.closed_because:
            await asyncio.sleep(RETRY_S)
            await self._load()
        log.info("files can be used again", entry=self.name)

    async def _context(self, config: EntryConfig) -> ssl.SSLContext | None:
        if (files := config.tls.files) is None:
            self._ends = ()
            return None
        context = await self._place.run(server_tls.load, *files, timeout=FILES_S)
        cert_file, _, client_ca_file = files
        self._ends = await self._place.run(server_tls.ends, cert_file, client_ca_file, timeout=FILES_S)
        return context

    async def _read_users(self, config: EntryConfig) -> Users | None:
        if config.users_file is None:
            return None
        users = self._last_read
        if users is None or users.path != config.users_file:
            users = self._last_read = Users(config.users_file)
        try:
            await users.load()
        except Unusable as exc:
            raise Unusable(f"{config.users_file} {exc}", exc.hint) from exc
        return users

    async def _is_right(self, given: Credentials) -> bool:
        return self._users is not None and await self._users.is_right(given.user, given.password.encode())

    async def _require_allowed(self, caller: Caller) -> None:
        if self.config.allow is not None:
            await self._access.require(
                self.config.allow, caller, entry=self.name, of=f" of entries.{self.name}"
            )

    async def close(self) -> None:
        """End the clients that have no destination yet. The listener is closed, or has another owner, by
        then.
        """
        await self._tasks.close()
        await self.listener.close()
        await self.entry.close()
        if self._users is not None:
            await self._users.close()

    def snapshot(self) -> EntrySnapshot:
        reason, message, hint = self._trouble()
        record = self.entry.record
        return EntrySnapshot(
            name=self.name,
            listen=str(self.config.listen),
            listening=self.listener.is_bound,
            reason=reason,
            message=message,
            hint=hint,
            connections=record.active,
            connections_total=record.opened,
        )

    def _trouble(self) -> tuple[str, str, str]:
        """Why every client is refused: a reason, a message and a hint, which are empty if clients do."""
        if error := self.listener.error:
            return error.reason, str(error), error.hint
        if self.entry.closed_because:
            return (
                Reason.CREDENTIALS_UNUSABLE,
                f"every client is refused: {self.entry.closed_because}",
                self._hint,
            )
        for what, end in self._ends:
            if end < time.time():
                message = f"clients come in no more: {what} has expired on {expiry.date(end)}"
                return (
                    Reason.CREDENTIALS_UNUSABLE,
                    message,
                    "put new ones there; kubemux reads them by itself",
                )
        return "", "", ""
