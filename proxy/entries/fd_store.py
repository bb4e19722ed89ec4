"""Listening sockets that outlive the process: systemd passes some to kubemux at its start, and keeps others
for the next process.

systemd's file descriptor store (sd_notify(3), `FDSTORE=1`; `FileDescriptorStoreMax=` of the unit) holds a
second descriptor of every socket that kubemux has bound. When kubemux stops, it closes its own descriptor,
and the address stays bound: clients that connect then wait in the backlog, and the next process accepts them.
Without systemd, closing the socket frees the address.

When a reload or a drain releases an address, kubemux tells systemd to close its descriptor, too. Otherwise
clients would wait in the backlog for ever.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from proxy.entries.binding import canonical, end_listening
from proxy.runtime import systemd
from proxy.runtime.endpoint import Endpoint, Local, UnixPath

log = structlog.get_logger("kubemux.systemd")

SETTLE_TIMEOUT_S: Final = 2.0
"""Seconds to wait until systemd has closed its descriptors. If it needs longer, binding may fail."""


class FdStore:
    """The inherited sockets that are not in use yet, and the names of the sockets that systemd keeps.

    Without $NOTIFY_SOCKET, systemd keeps none.
    """

    def __init__(self, inherited: Mapping[Local, socket.socket]) -> None:
        """`inherited`: sockets by local address, from `systemd.inherited_sockets`. The store owns them."""
        self._inherited = dict(inherited)
        self._kept: dict[Local, Local] = {}
        """By the address in the configuration: the address as `getsockname` of its socket returns it."""
        self._closing: set[int] = set()
        """Ports of sockets that kubemux asked systemd to close, and that may still be open."""

    def __repr__(self) -> str:
        return f"<FdStore inherited={len(self._inherited)} kept={len(self._kept)}>"

    def claim(self, address: Local) -> socket.socket | None:
        """The inherited socket that is bound to `address`, if there is one. The caller owns it then."""
        sock = self._inherited.pop(canonical(address), None)
        if sock is None or isinstance(sock, systemd.Activated) or not isinstance(address, UnixPath):
            return sock
        if Path(address.path).is_socket():
            return sock
        # The file was removed (as systemd does in RuntimeDirectory=), so no client can connect.
        sock.close()
        self._remove(address)
        return None

    def keep(self, address: Local, sock: socket.socket) -> None:
        """Let systemd keep `sock`, which listens on `address`, for the next process; `forget` ends that."""
        if address in self._kept:
            return
        bound = address if isinstance(address, UnixPath) else Endpoint(*sock.getsockname()[:2])
        if systemd.notify("FDSTORE=1", f"FDNAME={_name(bound)}", fds=[sock.fileno()]):
            self._kept[address] = bound

    def keeps(self, address: Local) -> bool:
        """Whether systemd keeps the socket at `address` for the next process."""
        return address in self._kept

    def forget(self, address: Local) -> None:
        """Tell systemd to close its descriptor of the socket at `address`."""
        if bound := self._kept.pop(address, None):
            self._remove(bound)

    async def close_unwanted(self, wanted: Iterable[Local]) -> None:
        """Close inherited sockets whose addresses are not `wanted`. Call it before anything is bound."""
        wanted = list(wanted)
        keep = {canonical(address) for address in wanted}
        for address in [address for address in self._inherited if address not in keep]:
            log.warning(
                "inherited socket not used",
                listen=str(address),
                hint="no cluster and no entry listens there; if a socket unit has it, take it out",
            )
            with self._inherited.pop(address) as sock:
                end_listening(sock)
            self._remove(address)
        await self.wait_until_free(wanted)

    async def wait_until_free(self, wanted: Iterable[Local]) -> None:
        """Wait until systemd has closed every descriptor that would keep us from binding a `wanted` address.

        Ports are compared, not addresses: a socket on 127.0.0.1 prevents binding 0.0.0.0 on the same port.
        """
        if self._closing.isdisjoint(one.port for one in wanted if isinstance(one, Endpoint)):
            return
        self._closing.clear()  # before the barrier: a socket that is given up later needs another barrier
        await _barrier()

    def close(self) -> None:
        """Close inherited sockets that were not claimed; systemd keeps those of its store. Idempotent."""
        for sock in self._inherited.values():
            sock.close()
        self._inherited.clear()

    def _remove(self, address: Local) -> None:
        # Only a port needs the wait: a path can be bound again while systemd still has the old unix socket.
        is_told = systemd.notify("FDSTOREREMOVE=1", f"FDNAME={_name(address)}")
        if is_told and isinstance(address, Endpoint):
            self._closing.add(address.port)


def _name(address: Local) -> str:
    """The name of a socket in the store. It has no colon: LISTEN_FDNAMES separates names by colons.

    A path may be longer than a name may be, and may have any characters, so its digest is used.
    """
    if isinstance(address, UnixPath):
        return f"{systemd.STORED}unix_{hashlib.sha256(os.fsencode(address.path)).hexdigest()}"
    return f"{systemd.STORED}{address}".replace(":", "_")


async def _barrier() -> None:
    """Wait until systemd has read all earlier messages: it then closes a pipe (sd_notify_barrier(3))."""
    loop = asyncio.get_running_loop()
    ours, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    closed = asyncio.Event()
    try:
        try:
            is_sent = systemd.notify("BARRIER=1", fds=[theirs])
        finally:
            os.close(theirs)
        if is_sent:
            loop.add_reader(ours, closed.set)
            with suppress(TimeoutError):
                async with asyncio.timeout(SETTLE_TIMEOUT_S):
                    await closed.wait()
            loop.remove_reader(ours)
    finally:
        os.close(ours)
