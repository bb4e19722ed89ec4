"""Binding: from an address of the configuration to a socket that listens there."""

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
"""Clients that wait in the kernel until they are accepted: descriptors are short, or kubemux restarts."""

LOOKUP_S: Final = 5.0
"""Seconds that a name may take to resolve: a start or a reload waits for it."""


def canonical(address: Endpoint) -> Endpoint:
    """`address` as a socket shows it that is bound to it.

    `localhost` becomes 127.0.0.1, and IPv6 addresses get their shortest form. Other names stay as they are.
    """
    host = "127.0.0.1" if address.host.lower() == "localhost" else address.host
    with suppress(ValueError):
        host = str(ipaddress.ip_address(host))
    return Endpoint(host, address.port)


async def bind(listen: Endpoint, names: Place) -> socket.socket:
    """A socket that listens on `listen`, not blocking; a name is looked up in `names`. Raises ListenError."""
    host, port = canonical(listen)
    try:
        family, address = (await resolve(host, port, names, timeout=LOOKUP_S))[0]
        sock = socket.socket(family, socket.SOCK_STREAM)
    except Hangs as exc:
        resolver = f"the resolver of this machine does not answer: getent hosts {host}; an address needs none"
        raise ListenError(f"cannot listen on {listen}: {exc}", hint=resolver) from exc
    except (OSError, UnicodeError) as exc:  # UnicodeError: no host name can look like that
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

    systemd may still have one in its store, because it has not read yet that it must close it. Clients would
    wait in the backlog for ever, and no process could bind the address.
    """
    if isinstance(sock, Activated):  # it is the unit's
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # `Listener.refuse` takes it
    with suppress(OSError):  # it does not listen already
        sock.shutdown(socket.SHUT_RDWR)
