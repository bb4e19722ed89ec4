"""One listening socket, bound here or inherited from systemd. It accepts clients in batches, and pauses while
few file descriptors are left.

A client's socket gets no transport here. What the client sends waits in the kernel, bounded by the socket's
buffer, until a channel is open.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Final

import structlog

from proxy.config.listen import PRIVATE, Permissions
from proxy.entries.arrival import Caller
from proxy.entries.binding import bind, end_listening, set_permissions
from proxy.entries.unix_socket import BACKLOG
from proxy.relay.socket_relay import LINGER_ZERO
from proxy.runtime import descriptors
from proxy.runtime.blocking import Place
from proxy.runtime.endpoint import Endpoint, Local, UnixPath
from proxy.runtime.systemd import Activated

log = structlog.get_logger("kubemux.listener")

BATCH: Final = 32
"""Clients accepted in one turn of the loop, so that many new clients do not starve the relays."""

FULL_PAUSE_S: Final = 0.5
_FULL: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_HINT: Final = "raise LimitNOFILE= of the unit, or lower limits.max_connections"

OnClient = Callable[[socket.socket, Caller], None]
"""Called with the non-blocking socket of a client, which it then owns."""


class Listener:
    """Accepts the clients of one address.

    A reload may replace `on_client` while it runs.
    """

    def __init__(
        self,
        address: Local,
        on_client: OnClient,
        *,
        inherited: socket.socket | None = None,
        permissions: Permissions = PRIVATE,
    ) -> None:
        """`permissions` says who may connect to a unix socket. After a change, call `apply_permissions`."""
        self.address = address
        self.on_client = on_client
        self._socket = inherited
        self.permissions = permissions
        self._resume: asyncio.TimerHandle | None = None
        self.is_refusing = False
        """Whether the kernel refuses clients while the socket stays bound."""
        self._loop = asyncio.get_running_loop()
        self._names = Place(f"names of {address}")
        self._applying = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Listener {self.address} {'bound' if self._socket else 'not bound'}>"

    @property
    def is_bound(self) -> bool:
        """Whether clients can connect."""
        return self._socket is not None

    @property
    def sock(self) -> socket.socket | None:
        """The bound socket, for the store that keeps it for the next process (`proxy.entries.fd_store`)."""
        return self._socket

    async def start(self) -> None:
        """Bind, unless the socket is inherited, and accept. Raises ListenError; it may be called again."""
        is_new = self._socket is None
        if self._socket is None:
            self._socket = await bind(self.address, self._names, self.permissions)
        if not self.is_refusing:
            self._loop.add_reader(self._socket, self._accept)
        if not is_new:
            await self.apply_permissions()

    async def apply_permissions(self) -> None:
        """Apply `permissions` to a unix socket's file, unless the socket belongs to a socket unit.

        If that fails, only the owner may connect. Raises ListenError.
        """
        if isinstance(self.address, UnixPath) and self._socket and not isinstance(self._socket, Activated):
            async with self._applying:  # of several calls, the last one applies the latest permissions
                await set_permissions(self.address, self._names, self.permissions)

    @property
    def can_refuse(self) -> bool:
        """Whether the kernel can refuse clients and later admit them again.

        It cannot on a unix socket, which never listens again after `shutdown`, not even after listen(2)
        (Linux 6.18). It must not on a socket of a socket unit, because the unit would fail. In both cases
        `on_client` closes the client's connection.
        """
        return (
            self._socket is not None
            and not isinstance(self._socket, Activated)
            and isinstance(self.address, Endpoint)
        )

    def refuse(self) -> None:
        """Let the kernel refuse clients until `admit`, if it can.

        client-go gives up at once when the kernel refuses it; after a reset it retries for almost a minute.
        On Linux, `shutdown` stops a TCP socket from listening, for all its descriptors, and keeps the address
        bound.
        """
        if self._socket is None or not self.can_refuse or self.is_refusing:
            return
        self._accept()  # `on_client` resets and counts the clients that have connected already
        self.is_refusing = True
        self._stop_accepting(self._socket)
        # Otherwise another program could bind the address now.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        self._socket.shutdown(socket.SHUT_RDWR)

    def admit(self) -> None:
        """Accept clients again. Raises OSError if another program has bound the address meanwhile."""
        if self._socket is None or not self.is_refusing:
            return
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.listen(BACKLOG)
        self.is_refusing = False
        self._loop.add_reader(self._socket, self._accept)

    def hold(self) -> None:
        """Let clients wait in the kernel until `start`."""
        if self._socket is not None:
            self._stop_accepting(self._socket)

    def release(self) -> None:
        """Close, and free the address even if systemd has a descriptor of the socket. Idempotent."""
        if self._socket is not None:
            end_listening(self._socket)
        self.close()

    def close(self) -> None:
        """Accept no more clients, and close the socket. Open connections are not touched. Idempotent."""
        if self._socket is not None:
            self._stop_accepting(self._socket)
            self._socket.close()
            self._socket = None
            self.is_refusing = False

    def _stop_accepting(self, sock: socket.socket) -> None:
        if self._resume is not None:
            self._resume.cancel()
            self._resume = None
        self._loop.remove_reader(sock)

    def _accept(self) -> None:
        for _ in range(BATCH):
            if self._socket is None:
                return
            try:
                sock, address = self._socket.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue
            except OSError as exc:
                self._pause(exc.strerror or str(exc), hint=_HINT if exc.errno in _FULL else "")
                return
            sock.setblocking(False)  # TCP_NODELAY is set with its transport
            is_last = descriptors.is_high(sock.fileno())
            try:
                self.on_client(
                    sock, Caller(Endpoint(*address[:2]) if isinstance(self.address, Endpoint) else None)
                )
            except Exception:
                log.exception(
                    "client not served", listen=str(self.address), hint="this is a bug: please report it"
                )
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
                sock.close()
            if is_last:
                self._pause("Few file descriptors left", hint=_HINT)
                return

    def _pause(self, why: str, *, hint: str) -> None:
        """Accept nothing for a while. New clients wait in the backlog.

        The usual cause is that no descriptor is free: accept() would fail again at once, in a busy loop.
        """
        if self._socket is None:
            return
        log.warning("accepting paused", listen=str(self.address), message=why, hint=hint)
        self._loop.remove_reader(self._socket)
        self._resume = self._loop.call_later(FULL_PAUSE_S, self._accept_again)

    def _accept_again(self) -> None:
        self._resume = None
        if self._socket is None:
            return
        if descriptors.are_scarce(self._socket.fileno()):
            self._resume = self._loop.call_later(FULL_PAUSE_S, self._accept_again)
            return
        log.info("accepting again", listen=str(self.address))
        self._loop.add_reader(self._socket, self._accept)
