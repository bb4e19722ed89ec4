"""The unix socket's file: its mode, and what was there before."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.admin.unix_listener import UnixListener
from proxy.errors import ListenError


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def close(listener: UnixListener) -> None:
    listener.unlink()
    listener.socket.close()


@pytest.mark.usefixtures("no_umask")
def test_the_file_is_for_its_owner_alone_from_the_moment_it_is_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []
    original = UnixListener._bind

    def spy(self: UnixListener) -> None:
        original(self)
        modes.append(stat.filemode(self.path.stat().st_mode))

    monkeypatch.setattr(UnixListener, "_bind", spy)
    close(UnixListener(tmp_path / "s"))
    assert modes == ["srw-------"]


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s"))
    listener = UnixListener(tmp_path / "s")
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600
    close(listener)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("full", [False, True], ids=["idle", "backlog full"])
def test_a_live_socket_is_left_alone(tmp_path: Path, *, full: bool) -> None:
    with socket.socket(socket.AF_UNIX) as live, socket.socket(socket.AF_UNIX) as client:
        live.bind(str(tmp_path / "s"))
        live.listen(0)
        if full:
            client.connect(str(tmp_path / "s"))
        with pytest.raises(ListenError, match="another process listens there") as caught:
            UnixListener(tmp_path / "s")
        assert "ss -xlp" in caught.value.hint
        assert (tmp_path / "s").exists()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("precious")
    with pytest.raises(ListenError, match="not a socket"):
        UnixListener(tmp_path / "s")
    assert (tmp_path / "s").read_text() == "precious"


def test_a_missing_folder_is_named_with_its_remedy(tmp_path: Path) -> None:
    with pytest.raises(ListenError, match=f"{tmp_path}/none/s: No such file") as caught:
        UnixListener(tmp_path / "none" / "s")
    assert "RuntimeDirectory" in caught.value.hint


def test_a_user_is_not_sent_to_the_folder_of_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    monkeypatch.setenv("HOME", "/home/user")
    with pytest.raises(ListenError) as caught:
        UnixListener(tmp_path / "none" / "s")
    assert caught.value.hint == (
        "create its folder, or choose one of your own: admin: {socket: ~/.config/kubemux/admin.sock}"
    )


def test_a_path_that_is_too_long_for_the_kernel(tmp_path: Path) -> None:
    with pytest.raises(ListenError, match="too long") as caught:
        UnixListener(tmp_path / ("x" * 108))
    assert "another path" in caught.value.hint


def test_the_file_of_a_successor_is_not_removed(tmp_path: Path) -> None:
    first = UnixListener(tmp_path / "s")  # bound, not listening: stale in the eyes of the second
    second = UnixListener(tmp_path / "s")
    close(first)
    assert (tmp_path / "s").exists()
    close(second)
    close(second)
    assert not (tmp_path / "s").exists()


def test_a_file_that_changed_hands_is_removed_all_the_same(tmp_path: Path) -> None:
    """chown(1), chmod(1) and hard links change its times, not whose it is."""
    listener = UnixListener(tmp_path / "s")
    (tmp_path / "s").chmod(0o660)
    os.chown(tmp_path / "s", os.geteuid(), os.getegid())
    close(listener)
    assert not (tmp_path / "s").exists()


def test_a_file_that_comes_after_the_end_is_not_removed(tmp_path: Path) -> None:
    """The kernel may give it the same inode number."""
    listener = UnixListener(tmp_path / "s")
    close(listener)
    successors = [UnixListener(tmp_path / "s")]
    listener.unlink()
    assert (tmp_path / "s").exists()
    close(successors[0])
