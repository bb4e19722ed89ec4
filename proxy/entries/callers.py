"""Finds the local user of a client's connection.

On a unix socket the kernel knows the peer's uid (SO_PEERCRED, unix(7)); on loopback TCP we ask it for the
owner of the client's socket (`proxy.runtime.sock_diag`). Both return the user who opened the socket, also if
the socket was passed to another user later.

If the user is not known for certain, the result is None, never a uid.
"""

from __future__ import annotations

import errno
import os
import socket
from functools import cache
from pathlib import Path
from struct import Struct
from typing import Final, NamedTuple

import structlog

from proxy.runtime import sock_diag

log = structlog.get_logger("kubemux.callers")

_UCRED: Final = Struct("=iII")
"""struct ucred: pid, uid, gid."""
_NO_UID: Final = 0xFFFFFFFF
"""(uid_t) -1, which the kernel returns for a socket that is not connected."""
_OVERFLOW_UID: Final = 65534
"""The kernel's default overflow uid, in case /proc/sys is hidden, as by the unit's ProcSubset=pid."""
_ALL_UIDS: Final = ["0", "0", str(_NO_UID)]
"""/proc/self/uid_map in the initial user namespace, where uids are not translated."""


class Hidden(NamedTuple):
    """Why the system does not show the users of clients, and the remedy."""

    why: str
    remedy: str


def uid_of(sock: socket.socket) -> int | None:
    """The uid of the client of `sock`, an accepted connection; None if it is not known for certain.

    This does not block. Call it as soon as the client is accepted: the kernel forgets a client that has
    closed its socket.
    """
    try:
        uid = _unix_peer_uid(sock) if sock.family == socket.AF_UNIX else sock_diag.peer_uid(sock)
    except (OSError, ValueError) as exc:
        log.debug("caller not known", message=str(exc))
        return None
    if uid in {_NO_UID, _overflow_uid()} or _are_uids_mapped():
        log.debug("caller not known", message=f"the kernel says uid {uid}, which may be anybody")
        return None
    return uid


def hidden(*, tcp: bool) -> Hidden | None:
    """Why `uid_of` cannot identify clients on this system; with `tcp`, also those on loopback TCP.

    A daemon with uid or gid rules must not start then, because the rules would match no client.
    """
    if _are_uids_mapped():
        return Hidden(
            "kubemux runs in a user namespace, where a user has another uid than outside of it",
            "take PrivateUsers= out of the unit, or run the container without user namespaces; or let "
            "callers in by cert: or proxy-user:",
        )
    return _hidden_on_tcp() if tcp else None


def _unix_peer_uid(sock: socket.socket) -> int:
    _, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return int(uid)


def _hidden_on_tcp() -> Hidden | None:
    """Test with a connection of our own. The socket is connected to itself, so no other process can
    interfere.
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.bind(("127.0.0.1", 0))
            sock.connect(sock.getsockname())
            uid = sock_diag.peer_uid(sock)
    except OSError as exc:
        why = f"the kernel does not tell who owns a TCP connection: {exc.strerror or exc}"
        return Hidden(why, _remedy(exc.errno))
    except ValueError as exc:
        return Hidden(f"the kernel does not tell who owns a TCP connection: {exc}", _remedy(None))
    if uid != os.geteuid():
        return Hidden(
            f"the kernel says that a TCP connection of uid {os.geteuid()} is uid {uid}'s", _remedy(None)
        )
    return None


def _remedy(error: int | None) -> str:
    otherwise = "or use a unix socket, where a caller's uid is always known"
    if error in {errno.ENOENT, errno.EPROTONOSUPPORT}:
        return f"load the kernel's module: modprobe tcp_diag; {otherwise}"
    if error in {errno.EPERM, errno.EACCES, errno.EAFNOSUPPORT}:
        return (
            "allow netlink sockets: AF_NETLINK in RestrictAddressFamilies= of the unit, or the container's "
            f"seccomp profile; {otherwise}"
        )
    return f"this kernel or sandbox has no sock_diag(7); {otherwise[3:]}"


@cache
def _overflow_uid() -> int:
    """The uid that the kernel returns for every uid that our user namespace does not map."""
    try:
        return int(Path("/proc/sys/kernel/overflowuid").read_text())
    except (OSError, ValueError):
        return _OVERFLOW_UID


@cache
def _are_uids_mapped() -> bool:
    try:
        return Path("/proc/self/uid_map").read_text().split() != _ALL_UIDS
    except OSError:  # a kernel without user namespaces has no such file; neither if all of /proc is hidden
        return not Path("/proc/self/stat").exists()
