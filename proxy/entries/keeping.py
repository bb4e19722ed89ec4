"""Keeps a listener as long as the configuration has its address: binds it again after a failure, lets systemd
keep the socket, and refuses clients while no cluster could serve them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

import structlog

from proxy.config.listen import PRIVATE, Permissions
from proxy.entries.fd_store import FdStore
from proxy.entries.listener import Listener, OnClient
from proxy.errors import ListenError
from proxy.runtime.endpoint import Local, UnixPath
from proxy.runtime.tasks import Tasks

log = structlog.get_logger("kubemux.daemon")

REBIND_S: Final = 5.0
"""Seconds between attempts to bind an address that another program has."""


class KeptListener:
    """The listener of one cluster or entry. `error` is why its address is not bound."""

    def __init__(
        self,
        address: Local,
        on_client: OnClient,
        store: FdStore,
        *,
        permissions: Permissions = PRIVATE,
        owner: Mapping[str, str],
        on_change: Callable[[], None],
        listener: Listener | None = None,
    ) -> None:
        """`owner` names the cluster or entry in the log: `{"cluster": "prod"}`. `on_change` is called after
        the address has been bound late.

        `listener` is that of another cluster or entry, which had the same address until now. It stays bound,
        so that no client is refused in between.
        """
        if listener is None:
            listener = Listener(address, on_client, inherited=store.claim(address))
        listener.on_client, listener.permissions = on_client, permissions
        self.listener = listener
        self.error: ListenError | None = None
        self._store = store
        self._owner = owner
        self._on_change = on_change
        self._tasks = Tasks(f"listener {address}")

    def __repr__(self) -> str:
        return f"<KeptListener {self.listener}>"

    @property
    def address(self) -> Local:
        """Where it listens."""
        return self.listener.address

    @property
    def is_bound(self) -> bool:
        """Whether clients can connect."""
        return self.listener.is_bound

    async def start(self) -> None:
        """Accept clients. If the address is not free, try to bind it until it is."""
        try:
            await self.listener.start()
        except ListenError as exc:
            self._failed(exc)
            if not self.is_bound:
                self._tasks.keep(self._keep_binding, name="bind")
        self._keep()

    def set_permissions(self, permissions: Permissions) -> None:
        """Change who may connect to a unix socket."""
        if permissions != self.listener.permissions:
            self.listener.permissions = permissions
            self._tasks.spawn(self._apply_permissions(), name="permissions")

    async def _apply_permissions(self) -> None:
        try:
            await self.listener.apply_permissions()
        except ListenError as exc:
            self._failed(exc)
        else:
            self.error = None

    def _failed(self, exc: ListenError) -> None:
        log.error("listener failed", **self._owner, reason=exc.reason, message=str(exc), hint=exc.hint)
        # A copy, without the traceback of `exc`, which would keep the frames and their objects alive.
        self.error = ListenError(str(exc), hint=exc.hint)

    async def _keep_binding(self) -> None:
        while not self.is_bound:
            await asyncio.sleep(REBIND_S)
            with suppress(ListenError):
                await self.listener.start()
        self.error = None
        self._keep()
        log.info("listener bound", **self._owner, listen=str(self.address))
        self._on_change()

    def _keep(self) -> None:
        if self.listener.sock is not None and not self.listener.is_refusing:
            self._store.keep(self.address, self.listener.sock)

    def admit_or_refuse(self, *, is_hopeless: bool, because: Mapping[str, str]) -> None:
        """Let the kernel refuse clients while no cluster can serve them (`is_hopeless`).
        `because` is logged.
        """
        listener = self.listener
        if is_hopeless == listener.is_refusing or listener.sock is None:
            return
        if not listener.can_refuse:  # `on_client` resets the client
            return
        if is_hopeless:
            self._store.forget(self.address)  # systemd drops a socket that was shut down
            listener.refuse()
            event = "clients are refused"
        else:
            try:
                listener.admit()
            except OSError as exc:  # the next heartbeat tries again
                log.warning(
                    "clients cannot be served again yet", listen=str(self.address), message=exc.strerror
                )
                return
            self._store.keep(self.address, listener.sock)
            event = "clients are served again"
        log.info(event, **self._owner, **because, listen=str(self.address))

    def detach(self) -> Listener:
        """Pause the listener, and return it for the next owner of the address.

        Until that owner starts it, clients wait in the kernel: the owner may first have to read who is
        allowed.
        """
        self.listener.hold()
        return self.listener

    def stop_accepting(self) -> None:
        """Close the socket; systemd keeps its descriptor for the next process.

        If systemd has none of a unix socket, the file is removed.
        """
        if isinstance(self.address, UnixPath) and not self._store.keeps(self.address):
            self.listener.release()
        else:
            self.listener.close()

    def release(self) -> None:
        """Close the socket and free the address: new clients are refused, also while kubemux restarts.

        `close` must follow.
        """
        self.listener.release()
        self._store.forget(self.address)

    async def close(self) -> None:
        """Stop trying to bind. The socket stays as it is: it may have another owner by now."""
        await self._tasks.close()
