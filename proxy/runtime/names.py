"""Resolves names, in a thread of one listener, gateway or cluster, and makes TCP connections to addresses."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from proxy.runtime.blocking import Place, doing

P = TypeVar("P", bound=asyncio.BaseProtocol)


class Address(NamedTuple):
    """A resolved address, in the form that sockets of its family need."""

    family: int
    sockaddr: tuple[object, ...]

    @property
    def host(self) -> str:
        """The address as text. A link-local one includes its interface: `fe80::8%eth0` (RFC 4007 11)."""
        host, _, *more = self.sockaddr
        scope = more[1] if more else 0
        return f"{host}%{socket.if_indextoname(scope)}" if isinstance(scope, int) and scope else str(host)


async def connect(
    factory: Callable[[], P], host: str, port: int, *, local_addr: tuple[str, int] | None = None
) -> tuple[asyncio.Transport, P]:
    """A TCP connection to the address `host`. Raises OSError.

    For a link-local address it makes the socket itself: uvloop loses the interface of the address, and libuv
    then uses the first interface.
    """
    loop = asyncio.get_running_loop()
    if "%" not in host:
        return await loop.create_connection(factory, host, port, local_addr=local_addr)
    sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        if local_addr is not None:
            sock.bind(socket.getaddrinfo(*local_addr, socket.AF_INET6, flags=socket.AI_NUMERICHOST)[0][4])
        await _connected(
            loop, sock, socket.getaddrinfo(host, port, socket.AF_INET6, flags=socket.AI_NUMERICHOST)[0][4]
        )
        transport, protocol = await loop.create_connection(factory, sock=sock)
    except BaseException:
        sock.close()
        raise
    if transport.is_closing() and not isinstance(loop, asyncio.BaseEventLoop):
        # The peer has reset it at once, and uvloop has closed the descriptor. Another file may have the
        # number by now, so `sock` must not close it again.
        sock.detach()
    return transport, protocol


async def _connected(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, address: tuple[object, ...]
) -> None:
    if (error := sock.connect_ex(address)) == errno.EINPROGRESS:
        done = loop.create_future()
        loop.add_writer(sock, _set_done, done)
        try:
            await done
        finally:
            loop.remove_writer(sock)
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error, os.strerror(error))


def _set_done(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)


async def resolve(host: str, port: int, place: Place, *, family: int = 0, timeout: float) -> list[Address]:  # noqa: ASYNC109 - Place.run's
    """The addresses of `host`, for TCP. If it is an address already, no thread is needed.

    Raises OSError (gaierror), Hangs, or UnicodeError if it cannot be a host name (RFC 5890).
    """
    try:
        return _getaddrinfo(host, port, family, socket.AI_NUMERICHOST)
    except socket.gaierror:
        return await place.run(_look_up, host, port, family, timeout=timeout)


def is_here(host: str) -> bool:
    """Whether this address is one of this machine."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((host, 0))
    except OSError:
        return False
    return True


def remedy(host: str, error: int | None, *, also: str = "") -> str:
    """The hint for a `host` that `resolve` failed for, with gaierror number `error`.

    `also` is a sentence about what else the name may be.
    """
    if error == socket.EAI_NONAME:
        return f"is {host} spelt right, with its domain? {also}This machine's answer: getent hosts {host}"
    return (
        f"this machine's resolver has no answer now: getent hosts {host}; /etc/resolv.conf names its servers"
    )


def _look_up(host: str, port: int, family: int) -> list[Address]:
    doing(f"looking up {host}")
    return _getaddrinfo(host, port, family, 0)


def _getaddrinfo(host: str, port: int, family: int, flags: int) -> list[Address]:
    found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=flags)
    return [Address(kind, sockaddr) for kind, _, _, _, sockaddr in found]
