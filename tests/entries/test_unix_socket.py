"""Listening unix sockets: the permissions of the file, and existing files at the path."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxy.entries import unix_socket
from proxy.errors import ListenError

OTHER = 4242
"""The number of a group without members."""
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to any group")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


@pytest.fixture(params=[0, 0o077], ids=["no umask", "the unit's umask"])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def bind(path: Path, *, mode: int = 0o600, gid: int | None = None) -> socket.socket:
    return unix_socket.bind(path, f"listen {path}", otherwise=", or another", mode=mode, gid=gid)


def close(sock: socket.socket) -> None:
    unix_socket.end_listening(sock)
    sock.close()


def mode_and_group(path: Path) -> tuple[str, int]:
    status = path.lstat()
    return stat.filemode(status.st_mode), status.st_gid


def connected(path: Path) -> int:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path))


@as_root
@pytest.mark.usefixtures("umask")
def test_no_client_can_use_it_before_its_mode_and_group_are_set(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before bind(2) there is no file; after it, only the owner has access, and no client can connect yet."""
    seen: list[tuple[str, int, int]] = []

    def spying(name: str, original: Callable[..., object]) -> Callable[..., object]:
        def spy(*arguments: object, **named: object) -> object:
            if path.exists():
                seen.append((name, path.lstat().st_mode & 0o077, connected(path)))
            return original(*arguments, **named)

        return spy

    monkeypatch.setattr(unix_socket, "set_access", spying("set_access", unix_socket.set_access))
    monkeypatch.setattr(os, "chown", spying("chown", os.chown))
    monkeypatch.setattr(Path, "chmod", spying("chmod", Path.chmod))
    sock = bind(path, mode=0o660, gid=OTHER)
    assert mode_and_group(path) == ("srw-rw----", OTHER)
    assert connected(path) == 0
    close(sock)
    assert [name for name, *_ in seen] == ["set_access", "chmod", "chown", "chmod"]
    assert {(mode, error) for _, mode, error in seen} == {(0, errno.ECONNREFUSED)}


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize(("mode", "shown"), [(0o600, "srw-------"), (0o666, "srw-rw-rw-")])
def test_the_mode_is_the_one_that_was_asked_for(path: Path, mode: int, shown: str) -> None:
    sock = bind(path, mode=mode)
    assert mode_and_group(path) == (shown, os.getegid())
    close(sock)


@as_root
def test_in_a_setgid_folder_the_file_has_the_group_of_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "of a group"
    folder.mkdir()
    os.chown(folder, -1, OTHER)
    folder.chmod(0o2750)
    sock = bind(folder / "s", mode=0o660)
    assert mode_and_group(folder / "s") == ("srw-rw----", OTHER)
    close(sock)


def test_a_group_that_cannot_be_given_has_a_remedy_and_leaves_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under the shipped unit, whose seccomp filter forbids chown(2)."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(ListenError, match=f"may not give it to group {OTHER}") as caught:
        bind(path, mode=0o660, gid=OTHER)
    assert "SocketGroup=" in caught.value.hint
    assert not path.exists()


@as_root
def test_a_change_of_access_is_never_wider_than_the_old_or_the_new_access(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sock = bind(path, mode=0o660, gid=OTHER)
    unix_socket.set_access(path, "listen", mode=0o600, gid=None)
    assert mode_and_group(path) == ("srw-------", os.getegid())
    unix_socket.set_access(path, "listen", mode=0o660, gid=OTHER)
    assert mode_and_group(path) == ("srw-rw----", OTHER)

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(os, "chown", refuse)
        with pytest.raises(ListenError):
            unix_socket.set_access(path, "listen", mode=0o660, gid=OTHER + 1)
    assert mode_and_group(path) == ("srw-------", OTHER)
    close(sock)


def test_no_symbolic_link_is_followed(path: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("")
    precious.chmod(0o600)
    path.symlink_to(precious)
    with pytest.raises(ListenError, match="something else is there"):
        unix_socket.set_access(path, "listen", mode=0o666, gid=None)
    with pytest.raises(ListenError, match="not a socket"):
        bind(path, mode=0o666)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead"))
    path.unlink()
    path.symlink_to(tmp_path / "dead")
    with pytest.raises(ListenError, match="not a socket"):
        bind(path, mode=0o666)
    assert precious.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "dead").is_socket()
    assert path.is_symlink()


def test_a_stale_socket_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    sock = bind(path)
    assert mode_and_group(path) == ("srw-------", os.getegid())
    assert connected(path) == 0
    close(sock)
    assert not path.exists()


@pytest.mark.parametrize("full", [False, True], ids=["idle", "backlog full"])
def test_a_live_socket_is_left_alone(path: Path, *, full: bool) -> None:
    with socket.socket(socket.AF_UNIX) as live, socket.socket(socket.AF_UNIX) as client:
        live.bind(str(path))
        live.listen(0)
        if full:
            client.connect(str(path))
        with pytest.raises(ListenError, match="another process listens there") as caught:
            bind(path)
        assert "ss -xlp" in caught.value.hint
        assert path.is_socket()


def test_a_file_that_is_no_socket_is_left_alone(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(ListenError, match="not a socket"):
        bind(path)
    assert path.read_text() == "precious"


def test_a_missing_folder_is_named_with_its_remedy(tmp_path: Path) -> None:
    with pytest.raises(ListenError, match=f"{tmp_path}/none/s: No such file") as caught:
        bind(tmp_path / "none" / "s")
    assert caught.value.hint == "create its folder, or another"


def test_a_path_that_is_too_long_for_the_kernel_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ListenError, match="too long") as caught:
        bind(tmp_path / ("x" * 108))
    assert "another path" in caught.value.hint


def test_after_close_no_client_can_connect_and_the_file_is_removed(path: Path) -> None:
    """Also if another process has a descriptor of the socket, as systemd may."""
    sock = bind(path)
    with sock.dup():
        close(sock)
        assert connected(path) == errno.ENOENT
        close(bind(path))


def test_the_file_of_a_successor_is_not_removed(path: Path) -> None:
    first = bind(path)
    path.unlink()
    second = bind(path)
    close(first)
    assert connected(path) == 0
    close(second)
    assert not path.exists()


@as_root
def test_a_file_with_another_group_is_removed_too(path: Path) -> None:
    sock = bind(path)
    path.chmod(0o660)
    os.chown(path, os.geteuid(), OTHER)
    close(sock)
    assert not path.exists()


def test_another_file_in_its_place_is_not_removed(path: Path) -> None:
    sock = bind(path)
    path.unlink()
    path.write_text("precious")
    close(sock)
    assert path.read_text() == "precious"
