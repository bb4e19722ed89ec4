"""Makes a listening socket for an address of the configuration."""

from __future__ import annotations

import errno
import ipaddress
import socket
from contextlib import suppress
from typing import Final

from proxy.errors import ListenError
from proxy.runtime.blocking import Hangs, Place
from proxy.runtime.endpoint import Endpoint
from proxy.runtime.names import resolve
from proxy.runtime.systemd import Activated

BACKLOG: Final = 1024
"""Clients that may wait in the kernel while kubemux restarts, or has no descriptor left to accept them."""

LOOKUP_S: Final = 5.0
"""Seconds that a name may take to resolve. A start or a reload waits for so long."""


def canonical(address: Endpoint) -> Endpoint:
    """`address` in the form in which `getsockname` of a socket that is bound to it returns it.

    `localhost` becomes 127.0.0.1, and an IPv6 address gets its shortest form. Other names stay as they are.
    """
    host = "127.0.0.1" if address.host.lower() == "localhost" else address.host
    with suppress(ValueError):
        host = str(ipaddress.ip_address(host))
    return Endpoint(host, address.port)


async def bind(listen: Endpoint, names: Place) -> socket.socket:
    """A non-blocking socket that listens on `listen`; `names` resolves a host name. Raises ListenError."""
    host, port = canonical(listen)
    try:
        family, address = (await resolve(host, port, names, timeout=LOOKUP_S))[0]
        sock = socket.socket(family, socket.SOCK_STREAM)
    except Hangs as exc:
        resolver = f"the resolver of this machine does not answer: getent hosts {host}; an address needs none"
        raise ListenError(f"cannot listen on {listen}: {exc}", hint=resolver) from exc
    except (OSError, UnicodeError) as exc:  # UnicodeError: it is no valid host name
        why = exc.strerror if isinstance(exc, OSError) else "it is not a host name"
        raise ListenError(f"cannot listen on {listen}: {why or exc}") from exc
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as exc:
        sock.close()
        hint = (
            None
            if exc.errno != errno.EADDRINUSE
            else f"find who has it: ss -ltnp 'sport = :{port}'; or choose another port"
        )
        raise ListenError(f"cannot listen on {listen}: {exc.strerror or exc}", hint=hint) from exc
    return sock


def end_listening(sock: socket.socket) -> None:
    """Stop listening on `sock`, also for other processes that have a descriptor of it.

    systemd may still have one in its store, until it reads our message to close it. Without this, clients
    would wait in the backlog for ever, and no process could bind the address.
    """
    if isinstance(sock, Activated):  # the socket unit owns it
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # `Listener.refuse` clears it
    with suppress(OSError):  # after `Listener.refuse` it does not listen any more
        sock.shutdown(socket.SHUT_RDWR)
