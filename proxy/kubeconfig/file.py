"""Replaces a file that other programs read and write, too: as a whole or not at all, and under a lock.

The functions block: commands call them, the daemon does not.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count, takewhile
from pathlib import Path

from proxy.errors import ProxyError
from proxy.errors.reasons import Reason


class WriteFailed(ProxyError):
    """A file could not be written; what was there before still is."""

    reason = Reason.WRITE_FAILED


@contextmanager
def locked(path: Path) -> Iterator[list[Path]]:
    """Lock `path` against kubectl and other commands of kubemux until the block ends.

    The block gets the folders above `path` that had to be made, the outermost first. The lock is the file
    `PATH.lock`, as in client-go (tools/clientcmd/config.go, lockFile): every program built on client-go
    respects it. Raises WriteFailed if another program holds the lock.
    """
    lock = Path(f"{path.absolute()}.lock")
    with _translated(path):
        _refuse_strangers(path)
        made = [folder for folder in reversed(path.absolute().parents) if not folder.exists()]
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError as exc:
            hint = f"wait for kubectl or kubemux to finish; if none runs, it is a leftover: rm {lock}"
            raise WriteFailed(f"{path}: another program is changing it ({lock} exists)", hint=hint) from exc
    try:
        yield made
    finally:
        lock.unlink(missing_ok=True)


def replace(path: Path, data: bytes, *, mode: int | None = None) -> None:
    """Write `data` to a new file in the same folder, sync it, and rename it to `path`.

    If `path` is a symlink, the file that it leads to is replaced. Owner and group are kept, and if `mode` is
    None, the mode (0644 for a new file). Raises WriteFailed.
    """
    with _translated(path):
        target = Path(os.path.realpath(path))
        try:
            old = path.stat()  # fails for symlinks in a circle, where realpath() returns a path
        except FileNotFoundError:
            old = None
        if old and not stat.S_ISREG(old.st_mode):
            raise WriteFailed(f"{path}: is not a regular file", hint="give the path of a file")
        with suppress(FileExistsError):
            target.parent.mkdir(mode=0o755)
            if mode is None:
                # Not by our umask: the service of another user may have to read the file.
                target.parent.chmod(0o755)
        _refuse_strangers(path)
        with _synced(target.parent):
            descriptor, name = tempfile.mkstemp(prefix=".kubemux-", dir=target.parent)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
                    file.flush()
                    if old:
                        _refuse_stranger(path, target, old)
                        os.fchown(descriptor, old.st_uid, old.st_gid)
                    os.fchmod(
                        descriptor, mode if mode is not None else stat.S_IMODE(old.st_mode) if old else 0o644
                    )
                    os.fsync(descriptor)
                Path(name).rename(target)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise


def backup(path: Path) -> Path:
    """Copy `path` to the first free of `PATH.bak`, `PATH.bak2`, ..., mode 0600, and return that.

    Raises WriteFailed.
    """
    with _translated(path):
        data = path.read_bytes()
        for copy in _copies(path):
            try:
                descriptor = os.open(copy, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            except FileExistsError:
                continue  # an earlier backup: never overwritten
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            return copy
    raise AssertionError("count() does not end")


def backups(path: Path) -> list[Path]:
    """The backups of `path`, oldest first."""
    return list(takewhile(Path.exists, _copies(path)))


def _copies(path: Path) -> Iterator[Path]:
    return (path.with_name(f"{path.name}.bak{number if number > 1 else ''}") for number in count(1))


def _refuse_strangers(path: Path) -> None:
    """Raise WriteFailed if another user has made `path`, a folder above it or a symlink on the way, in a
    folder where others may make files.

    In /tmp another user could make a file of this name first, and would still own it after we write to it; or
    make a symlink that leads our secrets to a place that user can read. For open(2) the kernel refuses the
    same (fs.protected_regular, fs.protected_symlinks).
    """
    for start in (path.absolute(), Path(os.path.realpath(path))):
        for one in (start, *start.parents):
            with suppress(FileNotFoundError):
                _refuse_stranger(path, one, one.lstat())


def _refuse_stranger(path: Path, one: Path, status: os.stat_result) -> None:
    folder = one.parent.stat()
    if folder.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and status.st_uid not in {
        os.geteuid(),
        0,
        folder.st_uid,
    }:
        where = f"{path}: {one}" if one != path else f"{path}"
        message = (
            f"{where} belongs to uid {status.st_uid}, in a folder where others may make files: it is "
            "left alone"
        )
        raise WriteFailed(
            message, hint="look at it and remove it, or choose a folder of your own with --output"
        )


@contextmanager
def _synced(folder: Path) -> Iterator[None]:
    """Sync `folder` after the block, so that a rename in it survives a crash.

    If the folder cannot be opened, it fails before the block has changed anything.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            raise WriteFailed(
                f"{path}: its symlinks lead in a circle", hint="give the path of a file"
            ) from exc
        raise WriteFailed(f"{path}: cannot be written: {exc.strerror}") from exc
