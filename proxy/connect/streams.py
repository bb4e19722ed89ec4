"""Relays bytes between a connected socket and standard streams, or passes the socket to ssh."""

from __future__ import annotations

import os
import select
import socket
import threading
from contextlib import suppress
from typing import Final

from proxy.connect.asking import NotConnected

_CHUNK: Final = 64 * 1024


def takes_descriptors(descriptor: int) -> bool:
    """Whether it is a unix socket."""
    try:
        with socket.socket(fileno=os.dup(descriptor)) as sock:
            return sock.family == socket.AF_UNIX
    except OSError:
        return False


def hand_over(sock: socket.socket, descriptor: int) -> None:
    """Give `sock` to the process at the other end of the unix socket `descriptor`. Raises BrokenPipeError.

    ssh reads one byte, and one descriptor with it (ssh_config(5), ProxyUseFdpass).
    """
    with socket.socket(fileno=os.dup(descriptor)) as other:
        socket.send_fds(other, [b"\0"], [sock.fileno()])


def pump(sock: socket.socket, source: int, sink: int) -> None:
    """Copy bytes from `source` to `sock` and from `sock` to `sink`, until both directions have ended.

    EOF in one direction is passed on, and the other direction continues. `sink` is closed when the target has
    ended its side. Raises BrokenPipeError if `sink` has no reader any more, and NotConnected if the
    connection was reset.

    Each direction has a thread, because a write may block: ssh may write before it reads.
    """
    sending = threading.Thread(target=_send, args=(source, sock), daemon=True)
    sending.start()
    try:
        while data := sock.recv(_CHUNK):
            _write(sink, data)
    except ConnectionResetError as exc:
        hint = "its server has ended it, or kubemux has lost the link to it: kubemux status says more"
        raise NotConnected("the connection was reset", hint) from exc
    os.close(sink)
    sending.join()


def _send(source: int, sock: socket.socket) -> None:
    poll = select.poll()
    poll.register(source, select.POLLIN)
    # The connection failed, or has ended in both directions: nothing reads what we send.
    poll.register(sock, 0)
    # If the socket failed, `pump` sees that, too; if a terminal is gone, this is an EOF.
    with suppress(OSError):
        while all(descriptor == source for descriptor, _ in poll.poll()):
            if not (data := os.read(source, _CHUNK)):
                break
            sock.sendall(data)
    with suppress(OSError):
        sock.shutdown(socket.SHUT_WR)


def _write(sink: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(sink, left) :]
        except BlockingIOError:  # another process with the same terminal or pipe has made it non-blocking
            poll = select.poll()
            poll.register(sink, select.POLLOUT)
            poll.poll()
