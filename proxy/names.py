"""Names to addresses: `getaddrinfo` in a thread that one listener, gateway or cluster has for itself (`proxy/blocking.py`)."""

from __future__ import annotations

import socket
from typing import NamedTuple

from proxy.blocking import Place, doing


class Address(NamedTuple):
    """What a socket of that family takes."""

    family: int
    sockaddr: tuple[object, ...]

    @property
    def host(self) -> str:
        """As text; a link-local one with its interface, without which it means nothing: `fe80::8%eth0` (RFC 4007 11)."""
        host, _, *more = self.sockaddr
        scope = more[1] if more else 0
        return f"{host}%{socket.if_indextoname(scope)}" if isinstance(scope, int) and scope else str(host)


async def resolve(host: str, port: int, place: Place, *, family: int = 0, timeout: float) -> list[Address]:  # noqa: ASYNC109 - Place.run's
    """The addresses of `host`, for TCP. One that is an address already needs no thread.

    Raises OSError (gaierror), UnicodeError if no name can look like that (RFC 5890), Hangs.
    """
    try:
        return _ask(host, port, family, socket.AI_NUMERICHOST)
    except socket.gaierror:
        return await place.run(_look_up, host, port, family, timeout=timeout)


def _look_up(host: str, port: int, family: int) -> list[Address]:
    doing(f"looking up {host}")
    return _ask(host, port, family, 0)


def _ask(host: str, port: int, family: int, flags: int) -> list[Address]:
    found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=flags)
    return [Address(kind, sockaddr) for kind, _, _, _, sockaddr in found]
