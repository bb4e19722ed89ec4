"""The admin server's unix socket, mode 0600 from the start. It replaces a stale socket, never a live one."""

from __future__ import annotations

import errno
import os
import shlex
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from proxy.config.values import has_home, is_for_system_service
from proxy.errors import ListenError

_HINTS: Final = {
    errno.ENOENT: "create its folder",
    errno.EACCES: "let the daemon's user write to that folder",
    errno.EROFS: "choose a folder that can be written",
}

OF_SERVICE: Final = "/run/kubemux/admin.sock"
OF_PERSON: Final = "~/.config/kubemux/admin.sock"
"""The folder exists, because the configuration file is in it."""


def proposed() -> str:
    """The `admin.socket` to propose in a hint. /run/kubemux belongs to the system service."""
    return OF_PERSON if has_home() and not is_for_system_service() else OF_SERVICE


def _remedy(error: OSError) -> str:
    if (hint := _HINTS.get(error.errno or 0)) is None:
        return "choose another path for admin.socket"
    if (path := proposed()) == OF_SERVICE:
        return f"{hint}; under systemd: RuntimeDirectory=kubemux"
    return f"{hint}, or choose one of your own: admin: {{socket: {path}}}"


class UnixListener:
    """A bound unix socket, and its file. The constructor raises ListenError."""

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
            self._identity: tuple[int, int] | None = _identity(path)
        except ListenError:
            self.socket.close()
            raise
        except OSError as exc:
            self.socket.close()
            raise ListenError(
                f"admin.socket {path}: {exc.strerror or exc}",
                hint=_remedy(exc),
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
        """Remove the file, unless another daemon has replaced it by its own. Idempotent.

        It must be called before the socket is closed: only then is the inode number still ours alone.
        """
        with suppress(OSError):
            if _identity(self.path) == self._identity:
                self.path.unlink()
        self._identity = None


def _identity(path: Path) -> tuple[int, int]:
    """Device and inode. Owner, mode and times may change without making it another file."""
    found = path.lstat()
    return found.st_dev, found.st_ino


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
                hint=f"find what it is: ss -xlp src {shlex.quote(str(path))}",
            )
    path.unlink()
