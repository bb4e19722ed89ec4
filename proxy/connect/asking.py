"""The client's side of HTTP CONNECT: asks a proxy entry for a target, with blocking sockets."""

from __future__ import annotations

import socket
from typing import Final

from proxy.runtime.endpoint import Endpoint, Local, UnixPath

UNIX: Final = "unix:"
CONNECT_S: Final = 10.0
ANSWER_S: Final = 300.0
"""Seconds to wait for the entry's answer. The entry answers within `hold_timeout` and `connect_timeout`,
which are 15 s by default. Only a frozen daemon takes longer.
"""
_MOST: Final = 8 * 1024
"""The longest accepted head of an answer, in bytes. kubemux sends less than 1 KiB; other proxies may send
more.
"""
_END: Final = b"\r\n\r\n"


class NotConnected(Exception):
    """The target was not reached, or the connection was lost. `str()` says why, without the target.

    It is no ProxyError, because importing the list of all reasons would double the start time.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def entry(text: str) -> Local:
    """Parse an entry's address: `HOST:PORT`, or `unix:PATH`. Raises ValueError."""
    if not text.startswith(UNIX):
        return Endpoint.parse(text)
    path = text.removeprefix(UNIX)
    if not path or "\0" in path:
        raise ValueError(f"expected a path behind {UNIX}")
    return UnixPath(path)


def target(host: str, port: str) -> Endpoint:
    """Parse the target. An IPv6 address may be without brackets, as in ssh's %h, or with. Raises
    ValueError.
    """
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    return Endpoint.parse(f"[{bare}]:{port}" if ":" in bare else f"{bare}:{port}")


def through(entry: Local, target: Endpoint) -> socket.socket:
    """A blocking socket that the entry has connected to `target`. Raises NotConnected.

    It reads only the entry's answer, and no byte of the target: an SSH server sends first, and its version
    line may arrive together with the answer.
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
            # connect(2) blocks only while the entry's backlog is full; with a timeout it would fail at once
            # then.
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
    """Read the answer's head, and no byte after it. Raises OSError, NotConnected."""
    head = b""
    while len(head) < _MOST:
        peeked = sock.recv(_MOST - len(head), socket.MSG_PEEK)
        if not peeked:
            raise NotConnected("the entry has closed the connection without an answer")
        end = (head + peeked).find(_END)
        # If the end is not among them, all peeked bytes belong to the head. Read them now: as long as they
        # are unread, a second peek would return them at once instead of waiting for more.
        head += sock.recv(len(peeked) if end < 0 else end + len(_END) - len(head))
        if end >= 0:
            return head
    raise NotConnected("the entry's answer is no head of HTTP")


def _check(head: bytes, target: Endpoint) -> None:
    """Raise NotConnected unless the status is 2xx."""
    version, _, answer = head.partition(b"\r\n")[0].decode("latin-1").partition(" ")
    status, _, phrase = answer.partition(" ")
    if not version.startswith("HTTP/1.") or len(status) != 3:
        raise NotConnected("the answer is not HTTP", "is this kubemux's proxy entry?")
    if status.startswith("2"):
        return
    # `kubemux: SUBJECT: REASON (MESSAGE)`. The caller names the target, so that subject is left out.
    said = phrase.removeprefix("kubemux: ").removeprefix(f"{target.host}: ")
    raise NotConnected(said or f"refused with status {status}")


def _why(exc: OSError) -> str:
    return exc.strerror or str(exc)
