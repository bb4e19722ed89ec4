"""What the daemon and systemd tell each other: readiness, watchdog and inherited sockets.

Three environment variables say what systemd offers. `NOTIFY_SOCKET` is the socket for messages about our
state (sd_notify(3)). `WATCHDOG_USEC` is how often systemd expects a message (sd_watchdog_enabled(3)).
`LISTEN_FDS` is the number of sockets that systemd has bound for us (sd_listen_fds(3)). Without these
variables, for example under a shell, everything here does nothing:

    inherited = inherited_sockets()                     # before anything binds, or starts a child
    await ready(status("3/5 clusters up"))
    notify(WATCHDOG)                                    # by the event loop, every watchdog_interval() s
    notify(reloading()); ...; await ready(status("4/5 clusters up"))
    notify(STOPPING, extend(40.0))

`proxy/entries/fd_store.py` uses this for sockets that systemd keeps from one process to the next.
"""

from __future__ import annotations

import array
import asyncio
import os
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import structlog

from proxy.runtime.endpoint import Endpoint, Local, UnixPath
from proxy.runtime.plain_socket import PlainSocket

log = structlog.get_logger("kubemux.systemd")

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"
WATCHDOG: Final = "WATCHDOG=1"

STORED: Final = "listen-"
"""The names of sockets that systemd keeps for us begin with this (`proxy/entries/fd_store.py`)."""

READY_S: Final = 10.0
"""Seconds within which systemd must take READY=1."""

_FIRST_FD: Final = 3  # SD_LISTEN_FDS_START


class Activated(PlainSocket):
    """A socket of a socket unit, on which systemd listens, too. If we shut it down, the unit fails."""


def status(text: str) -> str:
    """The assignment that sets the status line of `systemctl status`."""
    return "STATUS=" + " ".join(text.split())


def reloading() -> str:
    """The assignments that begin a reload; READY ends it.

    The time tells systemd (Type=notify-reload) which reload request the later READY answers.
    """
    return f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"


def extend(seconds: float) -> str:
    """The assignment that asks for `seconds` more from now, if TimeoutStopSec= of the unit is shorter."""
    return f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}"


def notify(*assignments: str, fds: Sequence[int] = ()) -> bool:
    """Send `assignments` (like `READY=1`) to systemd in one datagram, with copies of `fds`.

    Returns False if there is no systemd, or if its socket does not accept the message now, which is logged.
    Never blocks, never raises: if systemd is busy or gone, the daemon still works. `fds` belong to FDSTORE=1
    or BARRIER=1.
    """
    if not (address := os.environ.get("NOTIFY_SOCKET")):
        return False
    try:
        with _connected(address) as sock:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            sock.sendmsg([_message(assignments)], rights)
    except OSError as exc:
        _not_notified(address, exc)
        return False
    return True


async def ready(*assignments: str) -> None:
    """Send READY=1 with these assignments. Like `notify`, but it waits up to READY_S while systemd's queue of
    messages is full: a daemon with many addresses has just filled it (`fd_store`), and without READY=1
    systemd ends the service after TimeoutStartSec=.
    """
    if not (address := os.environ.get("NOTIFY_SOCKET")):
        return
    try:
        with _connected(address) as sock:
            async with asyncio.timeout(READY_S):
                await asyncio.get_running_loop().sock_sendall(sock, _message((READY, *assignments)))
    except OSError as exc:
        _not_notified(address, exc)


def _connected(address: str) -> socket.socket:
    """A non-blocking socket that is connected to systemd's. Raises OSError."""
    # An abstract socket's name begins with a null byte, written `@` in the environment (unix(7)).
    name = "\0" + address[1:] if address.startswith("@") else address
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        sock.connect(name)
    except BaseException:
        sock.close()
        raise
    return sock


def _message(assignments: Sequence[str]) -> bytes:
    return "\n".join(assignments).encode(errors="replace")


def _not_notified(address: str, exc: OSError) -> None:
    log.warning(
        "service manager not notified",
        socket=address,
        error=str(exc) or "it took no message in time",
        hint="if systemd restarts kubemux for this, check NotifyAccess= and "
        "RestrictAddressFamilies=AF_UNIX in its unit",
    )


def watchdog_interval() -> float | None:
    """Seconds between two `WATCHDOG`s: half of the unit's WatchdogSec=.

    None if the unit sets none, or expects the messages from another process.
    """
    limit = os.environ.get("WATCHDOG_USEC", "")
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(limit) / 2e6 if limit.isdecimal() and int(limit) else None


def inherited_sockets() -> dict[Local, socket.socket]:
    """The listening stream sockets that systemd bound for us, by local address.

    The sockets are non-blocking, and children do not inherit them. The caller owns them, and closes those
    that it does not use. Descriptors that are no such socket are logged and closed. A second call finds none.
    """
    # Removed from the environment: a child process would believe that its own descriptors are these sockets.
    pid, count, names = (os.environ.pop(f"LISTEN_{name}", "") for name in ("PID", "FDS", "FDNAMES"))
    if pid != str(os.getpid()) or not count.isdecimal():
        return {}
    found: dict[Local, socket.socket] = {}
    fds = range(_FIRST_FD, _FIRST_FD + int(count))
    named = dict(zip(fds, names.split(":"), strict=False))
    for fd in fds:
        try:
            address, sock = _listener(fd, PlainSocket if named.get(fd, "").startswith(STORED) else Activated)
        except (OSError, ValueError) as exc:
            log.warning(
                "inherited socket not usable",
                fd=fd,
                error=str(exc),
                hint="use only ListenStream= in kubemux.socket",
            )
            continue
        # Two sockets with the same address; only ReusePort= allows that.
        if found.setdefault(address, sock) is not sock:
            sock.close()
    return found


def _listener(fd: int, kind: type[socket.socket]) -> tuple[Local, socket.socket]:
    """Descriptor `fd` as a socket with its address. Raises OSError or ValueError after closing it."""
    try:
        sock = kind(fileno=fd)
    except OSError:
        with suppress(OSError):  # no descriptor of that number may be open
            os.close(fd)
        raise
    sock.set_inheritable(False)
    sock.setblocking(False)
    if sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        name = sock.getsockname()
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            return Endpoint(name[0], name[1]), sock
        if sock.family == socket.AF_UNIX:
            return UnixPath("@" + name[1:].decode() if isinstance(name, bytes) else name), sock
    sock.close()
    raise ValueError("not a listening stream socket of TCP or a unix path")
