"""The admin server's unix socket: 0600 from its first moment, a stale one replaced, a live one respected."""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from proxy.errors import ListenError

_HINTS: Final = {
    errno.ENOENT: "create its folder; under systemd: RuntimeDirectory=kubemux",
    errno.EACCES: "let the daemon's user write to that folder; under systemd: RuntimeDirectory=kubemux",
    errno.EROFS: "choose a folder that can be written; under systemd: RuntimeDirectory=kubemux",
}


class UnixListener:
    """A bound unix socket and the file that stands for it. Raises ListenError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.socket.setblocking(False)
            # Linux's bind(2) gives the file the socket's own mode, umask applied: never readable by others,
            # not for a moment, and without the process-wide umask. See unix_bind_bsd() in the kernel's
            # net/unix/af_unix.c.
            os.fchmod(self.socket.fileno(), 0o600)
            self._bind()
            self._identity = _identity(path)
        except ListenError:
            self.socket.close()
            raise
        except OSError as exc:
            self.socket.close()
            raise ListenError(
                f"admin.socket {path}: {exc.strerror or exc}",
                hint=_HINTS.get(exc.errno or 0, "choose another path for admin.socket"),
            ) from exc

    def _bind(self) -> None:
        try:
            self.socket.bind(str(self.path))
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE:
                raise
            _remove_stale(self.path)
            self.socket.bind(str(self.path))

    def unlink(self) -> None:
        """Remove the file, unless another daemon has put its own there since. Idempotent."""
        with suppress(OSError):
            if _identity(self.path) == self._identity:
                self.path.unlink()


def _identity(path: Path) -> tuple[int, int, int]:
    found = path.lstat()
    return found.st_dev, found.st_ino, found.st_ctime_ns  # an inode number alone may be used again at once


def _remove_stale(path: Path) -> None:
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise ListenError(
            f"admin.socket {path}: something is there that is not a socket",
            hint="look at it and remove it, or choose another path for admin.socket",
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a daemon whose backlog is full counts as live
        if probe.connect_ex(str(path)) != errno.ECONNREFUSED:
            raise ListenError(
                f"admin.socket {path}: another process listens there",
                hint=f"is kubemux running already? kubemux status, or: ss -xlp src {path}",
            )
    path.unlink()
