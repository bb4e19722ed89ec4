"""Listening unix sockets and their files. A file is never accessible to others before it gets its
permissions, and never replaces a file or a live socket of another program.
"""

from __future__ import annotations

import errno
import os
import shlex
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from proxy.config.listen import OWNER_ONLY
from proxy.errors import ListenError
from proxy.runtime.plain_socket import PlainSocket

BACKLOG: Final = 4096
"""Clients that may wait in the kernel while kubemux restarts, has no descriptor left to accept them, or is
busy with a thousand sites that come back at once. Linux allows no more by default (net.core.somaxconn).
"""

_HINTS: Final = {
    errno.ENOENT: "create its folder",
    errno.EACCES: "let the daemon's user write to that folder",
    errno.EROFS: "choose a folder that can be written",
}
_OTHERWISE: Final = "choose another path"


def bind(
    path: Path, subject: str, *, otherwise: str, mode: int = OWNER_ONLY, gid: int | None = None
) -> socket.socket:
    """A non-blocking socket that listens at `path`. It replaces a stale socket, but never a live one.

    Messages begin with `subject`. If the folder cannot be used, the hint ends with `otherwise`. Raises
    ListenError.
    """
    sock = PlainSocket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        # Linux's bind(2) gives the file the socket's own mode, umask applied: never readable by others, not
        # for a moment, and without the process-wide umask. See unix_bind_bsd() in the kernel's
        # net/unix/af_unix.c.
        os.fchmod(sock.fileno(), OWNER_ONLY)
        _bind(sock, path, subject)
        try:
            set_access(path, subject, mode=mode, gid=gid)
            sock.listen(BACKLOG)
        except BaseException:
            end_listening(sock)
            raise
    except ListenError:
        sock.close()
        raise
    except OSError as exc:
        sock.close()
        hint = _HINTS.get(exc.errno or 0)
        raise ListenError(
            f"{subject}: {exc.strerror or exc}", hint=f"{hint}{otherwise}" if hint else _OTHERWISE
        ) from exc
    return sock


def _bind(sock: socket.socket, path: Path, subject: str) -> None:
    try:
        sock.bind(str(path))
    except OSError as exc:
        if exc.errno != errno.EADDRINUSE:
            raise
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ListenError(
                f"{subject}: something is there that is not a socket",
                hint=f"look at it and remove it, or {_OTHERWISE}",
            ) from exc
        if not remove_stale(path):
            raise ListenError(
                f"{subject}: another process listens there",
                hint=f"find what it is: ss -xlp src {shlex.quote(str(path))}",
            ) from exc
        sock.bind(str(path))


def set_access(path: Path, subject: str, *, mode: int, gid: int | None) -> None:
    """Set the mode and group of the socket's file (None: the group that a new file gets there).

    If the group cannot be set, only the owner may connect. Raises ListenError or OSError.
    """
    if gid is None:
        gid = _usual_gid(path)
    with _file(path, subject) as (file, status):
        if gid != status.st_gid:
            file.chmod(OWNER_ONLY)
            try:
                os.chown(file, -1, gid)
            except PermissionError as exc:
                raise ListenError(
                    f"{subject}: kubemux may not give it to group {gid}",
                    hint="let systemd make the socket: use a socket unit with SocketGroup= and SocketMode=",
                ) from exc
        file.chmod(mode)


def restrict_to_owner(path: Path, subject: str) -> None:
    """Let only the file's owner connect. Raises ListenError or OSError."""
    with _file(path, subject) as (file, _):
        file.chmod(OWNER_ONLY)


@contextmanager
def _file(path: Path, subject: str) -> Iterator[tuple[Path, os.stat_result]]:
    """A descriptor of the socket's file. With the path, chmod(2) would follow a link that somebody puts
    there.
    """
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    try:
        status = os.fstat(fd)
        if not stat.S_ISSOCK(status.st_mode):
            raise ListenError(f"{subject}: something else is there now", hint="find who has put it there")
        yield Path(f"/proc/self/fd/{fd}"), status
    finally:
        os.close(fd)


def _usual_gid(path: Path) -> int:
    """The group of a new file: that of a folder with the set-group-ID bit, otherwise the process's."""
    folder = path.parent.stat()
    return folder.st_gid if folder.st_mode & stat.S_ISGID else os.getegid()


def remove_stale(path: Path) -> bool:
    """Remove the file of a socket on which no process listens; False if one does."""
    if not stat.S_ISSOCK(path.lstat().st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a listener whose backlog is full counts as live
        if probe.connect_ex(str(path)) != errno.ECONNREFUSED:
            return False
    path.unlink()
    return True


def end_listening(sock: socket.socket) -> None:
    """Stop listening on `sock`, also for other processes that have a descriptor of it.

    Its file is removed, unless the path has another file by now.
    """
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    with suppress(OSError):
        remove_stale(Path(sock.getsockname()))
