"""The client's side of HTTP CONNECT: asks a proxy entry for a target, with blocking sockets."""

from __future__ import annotations

import socket
from typing import Final

from proxy.runtime.endpoint import Endpoint, Local, UnixPath

UNIX: Final = "unix:"
CONNECT_S: Final = 10.0
ANSWER_S: Final = 300.0
"""Seconds that the entry may take to answer. It answers within its `hold_timeout` and `connect_timeout`, 15 s
if nobody changed them. This ends the wait for a daemon that is frozen.
"""
_MOST: Final = 8 * 1024
"""The longest head of an answer, in bytes. kubemux sends less than 1 KiB; it may be another proxy."""
_END: Final = b"\r\n\r\n"


class NotConnected(Exception):
    """The target was not reached, or the connection was lost. `str()` says why, without the target.

    It is no ProxyError: the list of all reasons, and what it imports, would double the time of the start.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def entry(text: str) -> Local:
    """Read where an entry listens: `HOST:PORT`, or the path behind `unix:`. Raises ValueError."""
    if not text.startswith(UNIX):
        return Endpoint.parse(text)
    path = text.removeprefix(UNIX)
    if not path or "\0" in path:
        raise ValueError(f"expected a path behind {UNIX}")
    return UnixPath(path)


def target(host: str, port: str) -> Endpoint:
    """What to ask for. ssh's %h is an IPv6 address without brackets; people write them. Raises ValueError."""
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    return Endpoint.parse(f"[{bare}]:{port}" if ":" in bare else f"{bare}:{port}")


def through(entry: Local, target: Endpoint) -> socket.socket:
    """A blocking socket on which `target` can be spoken to. Raises NotConnected.

    Nothing of what the target has said is read: an SSH server speaks first, and its banner may come together
    with the entry's answer.
    """
    sock = _dialled(entry)
    try:
        sock.settimeout(ANSWER_S)
        # The host is a name or an address (`Endpoint.parse`), so it adds no second line to the request.
        sock.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode("ascii"))
        _check(_head(sock), target)
        sock.settimeout(None)
    except (OSError, NotConnected) as exc:
        sock.close()
        if isinstance(exc, TimeoutError):
            raise NotConnected(f"no answer within {ANSWER_S:g} s", "does kubemux hang?") from exc
        if isinstance(exc, OSError):
            raise NotConnected(_why(exc), "did kubemux stop, or restart?") from exc
        raise
    return sock


def _dialled(entry: Local) -> socket.socket:
    try:
        if isinstance(entry, Endpoint):
            sock = socket.create_connection(entry, CONNECT_S)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        sock = socket.socket(socket.AF_UNIX)
        try:
            # It blocks only while the entry's backlog is full; with a timeout it would fail at once then.
            sock.connect(entry.path)
        except OSError:
            sock.close()
            raise
    except OSError as exc:
        hint = "is kubemux running, and is this the `listen` of one of its entries?"
        if isinstance(exc, PermissionError):
            hint = "this user may not open the socket: the entry's `mode` and `group` say who may"
        raise NotConnected(f"entry {entry}: {_why(exc)}", hint) from exc
    return sock


def _head(sock: socket.socket) -> bytes:
    """The answer's head, and not a byte behind it. Raises OSError, NotConnected."""
    head = b""
    while len(head) < _MOST:
        peeked = sock.recv(_MOST - len(head), socket.MSG_PEEK)
        if not peeked:
            raise NotConnected("the entry has closed the connection without an answer")
        end = (head + peeked).find(_END)
        # Without an end in it, all of it belongs to the head: to peek once more would not wait for more.
        head += sock.recv(len(peeked) if end < 0 else end + len(_END) - len(head))
        if end >= 0:
            return head
    raise NotConnected("the entry's answer is no head of HTTP")


def _check(head: bytes, target: Endpoint) -> None:
    """Raise NotConnected unless the answer is yes."""
    version, _, answer = head.partition(b"\r\n")[0].decode("latin-1").partition(" ")
    status, _, phrase = answer.partition(" ")
    if not version.startswith("HTTP/1.") or len(status) != 3:
        raise NotConnected("the answer is not HTTP", "is this kubemux's proxy entry?")
    if status.startswith("2"):
        return
    # `kubemux: SUBJECT: REASON (MESSAGE)`: what was asked for is said already, another subject is news.
    said = phrase.removeprefix("kubemux: ").removeprefix(f"{target.host}: ")
    raise NotConnected(said or f"refused with status {status}")


def _why(exc: OSError) -> str:
    return exc.strerror or str(exc)
