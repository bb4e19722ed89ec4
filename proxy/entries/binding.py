"""Makes a listening socket for an address of the configuration."""

from __future__ import annotations

import errno
import ipaddress
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from proxy.config.listen import PRIVATE, Permissions
from proxy.config.unix_files import OF_OTHERS, gid_of
from proxy.entries import unix_socket
from proxy.entries.unix_socket import BACKLOG
from proxy.errors import ListenError
from proxy.runtime.blocking import Hangs, Place
from proxy.runtime.endpoint import Endpoint, Local, UnixPath
from proxy.runtime.names import resolve
from proxy.runtime.plain_socket import PlainSocket
from proxy.runtime.systemd import Activated

LOOKUP_S: Final = 5.0
"""Seconds that resolving a name may take. A start or a reload waits that long at most."""


L = TypeVar("L", Endpoint, UnixPath, Local)


def canonical(address: L) -> L:
    """`address` in the form in which `getsockname` of a socket that is bound to it returns it.

    `localhost` becomes 127.0.0.1, and an IPv6 address gets its shortest form. Other names stay as they are.
    """
    if isinstance(address, UnixPath):
        return address
    host = "127.0.0.1" if address.host.lower() == "localhost" else address.host
    with suppress(ValueError):
        host = str(ipaddress.ip_address(host))
    return address._replace(host=host)


async def bind(listen: Local, names: Place, permissions: Permissions = PRIVATE) -> socket.socket:
    """A non-blocking socket that listens on `listen`. Host and group names are looked up in the place
    `names`.

    `permissions` is for a unix socket. Raises ListenError.
    """
    if isinstance(listen, UnixPath):
        return unix_socket.bind(
            Path(listen.path),
            _subject(listen),
            otherwise=f", or listen in {OF_OTHERS}, which kubemux.service creates",
            mode=permissions.mode,
            gid=await _gid(listen, permissions, names),
        )
    return await _bind_tcp(listen, names)


async def _bind_tcp(listen: Endpoint, names: Place) -> socket.socket:
    host, port = canonical(listen)
    try:
        family, address = (await resolve(host, port, names, timeout=LOOKUP_S))[0]
        sock = PlainSocket(family, socket.SOCK_STREAM)
    except Hangs as exc:
        resolver = f"the resolver of this machine does not answer: getent hosts {host}; an address needs none"
        raise ListenError(f"{_subject(listen)}: {exc}", hint=resolver) from exc
    except (OSError, UnicodeError) as exc:  # UnicodeError: it is no valid host name
        why = exc.strerror if isinstance(exc, OSError) else "it is not a host name"
        raise ListenError(f"{_subject(listen)}: {why or exc}") from exc
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as exc:
        sock.close()
        raise ListenError(
            f"{_subject(listen)}: {exc.strerror or exc}", hint=_remedy(exc.errno, port)
        ) from exc
    return sock


def _remedy(number: int | None, port: int) -> str | None:
    if number == errno.EADDRINUSE:
        return f"find who has it: ss -ltnp 'sport = :{port}'; or choose another port"
    if number == errno.EACCES:
        return "ports below 1024 are root's: choose another, or let systemd open it (kubemux.socket)"
    return None


async def set_permissions(listen: UnixPath, names: Place, permissions: Permissions) -> None:
    """Give the file of the bound socket at `listen` these permissions, which say who may connect.

    If that fails, only the owner may connect. Raises ListenError.
    """
    path = Path(listen.path)
    try:
        try:
            gid = await _gid(listen, permissions, names)
        except ListenError:
            unix_socket.restrict_to_owner(path, _subject(listen))
            raise
        unix_socket.set_access(path, _subject(listen), mode=permissions.mode, gid=gid)
    except OSError as exc:
        raise ListenError(f"{_subject(listen)}: {exc.strerror or exc}", hint="look at its file") from exc


async def _gid(listen: UnixPath, permissions: Permissions, names: Place) -> int | None:
    if permissions.group is None:
        return None
    try:
        return await names.run(gid_of, permissions.group, timeout=LOOKUP_S)
    except Hangs as exc:
        raise ListenError(f"{_subject(listen)}: {exc}", hint="give the group by its number") from exc
    except KeyError as exc:
        hint = f"groupadd --system {permissions.group}, or name another"
        raise ListenError(f"{_subject(listen)}: there is no group {permissions.group}", hint=hint) from exc


def _subject(listen: Local) -> str:
    return f"cannot listen on {listen}"


def end_listening(sock: socket.socket) -> None:
    """Stop listening on `sock`, also for other processes that have a descriptor of it; remove its file.

    systemd may still have a descriptor in its store, until it reads our message to close it. Without this,
    clients would wait in the backlog for ever, and no process could bind the address.
    """
    if isinstance(sock, Activated):  # the socket unit owns it
        return
    if sock.family == socket.AF_UNIX:
        unix_socket.end_listening(sock)
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # `Listener.refuse` clears it
    with suppress(OSError):  # after `Listener.refuse` it does not listen any more
        sock.shutdown(socket.SHUT_RDWR)
