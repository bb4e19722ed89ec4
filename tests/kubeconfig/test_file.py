"""Replacing a file: completely or not at all, with the right owner and mode."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from proxy.kubeconfig import file
from proxy.kubeconfig.file import WriteFailed


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(
    ("wanted", "before", "after"), [(0o600, None, 0o600), (0o600, 0o644, 0o600), (None, 0o640, 0o640)]
)
def test_the_file_gets_the_wanted_mode_or_keeps_its_own(
    tmp_path: Path, wanted: int | None, before: int | None, after: int
) -> None:
    path = tmp_path / "config"
    if before is not None:
        path.touch()
        path.chmod(before)
    file.replace(path, b"new", mode=wanted)
    assert path.read_bytes() == b"new"
    assert mode(path) == after


def test_the_new_content_is_never_readable_by_others_and_appears_by_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen = tmp_path / "config", []
    path.write_bytes(b"old")
    path.chmod(0o600)
    rename = Path.rename

    def watched(self: Path, target: Path) -> Path:
        seen.append((mode(self), self.read_bytes(), path.read_bytes(), self.parent))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", watched)
    old = path.stat().st_ino
    file.replace(path, b"new", mode=0o600)
    assert seen == [(0o600, b"new", b"old", tmp_path)]
    assert path.stat().st_ino != old


@pytest.mark.parametrize("step", ["fsync", "fchown", "fchmod"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "config"
    path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(WriteFailed, match="No space left on device"):
        file.replace(path, b"new", mode=0o600)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_symlink_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "config", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    file.replace(link, b"new", mode=0o600)
    assert link.readlink() == target
    assert target.read_bytes() == b"new"


def test_the_missing_target_of_a_symlink_is_made(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("config")
    file.replace(link, b"new", mode=0o600)
    assert link.is_symlink()
    assert (tmp_path / "config").read_bytes() == b"new"


@pytest.mark.parametrize("kind", ["fifo", "folder", "loop"])
def test_a_path_that_is_no_regular_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "odd"
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case _:
            path.symlink_to(path)
    with pytest.raises(WriteFailed, match=r"odd: (is not a regular file|its symlinks lead in a circle)"):
        file.replace(path, b"new", mode=0o600)
    assert list(tmp_path.iterdir()) == [path]


def test_a_path_that_the_kernel_does_not_follow_is_not_written(tmp_path: Path) -> None:
    """Path.resolve() and realpath() ignore a loop of links, and would return a path at which the kernel finds
    nothing.
    """
    (tmp_path / "config").write_bytes(b"somebody's")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(WriteFailed, match="its symlinks lead in a circle"):
        file.replace(tmp_path / "loop" / ".." / "config", b"new")
    assert (tmp_path / "config").read_bytes() == b"somebody's"


def test_the_lock_admits_one_holder_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "config"
    with file.locked(path):
        assert (tmp_path / "sub" / "config.lock").exists()
        with pytest.raises(WriteFailed, match="another program is changing it") as caught, file.locked(path):
            pytest.fail("two hold the lock")
    assert str(path) in caught.value.hint
    with file.locked(path):
        pass
    assert not list(path.parent.iterdir())


def test_the_lock_is_released_when_the_block_fails(tmp_path: Path) -> None:
    path = tmp_path / "config"
    with pytest.raises(KeyError), file.locked(path):
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_no_backup_overwrites_another(tmp_path: Path) -> None:
    path = tmp_path / "config"
    copies = []
    for content in (b"one", b"two", b"three"):
        path.write_bytes(content)
        copies.append(file.backup(path))
    assert [copy.name for copy in copies] == ["config.bak", "config.bak2", "config.bak3"]
    assert [copy.read_bytes() for copy in copies] == [b"one", b"two", b"three"]
    assert {mode(copy) for copy in copies} == {0o600}


MALLORY = 65_533


@pytest.fixture
def sticky(tmp_path: Path) -> Path:
    """A folder with the sticky bit, like /tmp."""
    if os.geteuid() != 0:
        pytest.skip("giving a file to somebody else needs root")
    folder = tmp_path / "sticky"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


def given(path: Path) -> Path:
    os.chown(path, MALLORY, MALLORY, follow_symlinks=False)
    return path


@pytest.mark.parametrize(
    "kind", ["file", "link to a file", "link to nothing", "folder", "link to a folder", "file of a folder"]
)
def test_a_file_of_another_user_in_a_shared_folder_is_left_alone(
    sticky: Path, tmp_path: Path, kind: str
) -> None:
    trap, elsewhere = sticky / "config", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "config").write_bytes(b"old")
    path = trap
    match kind:
        case "file":
            trap.write_bytes(b"old")
        case "link to a file":
            trap.symlink_to(elsewhere / "config")
        case "link to nothing":
            trap.symlink_to(elsewhere / "new")
        case "link to a folder":
            trap.symlink_to(elsewhere)
            path = trap / "config"
        case _:
            trap.mkdir()
            path = trap / "config"
            if kind == "file of a folder":
                path.write_bytes(b"old")
    given(trap)
    before = {found: found.read_bytes() for found in tmp_path.rglob("*") if found.is_file()}
    message = f"belongs to uid {MALLORY}, in a folder where others may make files: it is left alone"
    with pytest.raises(WriteFailed, match=message):
        file.replace(path, b"secret", mode=0o600)
    with pytest.raises(WriteFailed, match=message), file.locked(path):
        pytest.fail("it was locked")
    assert {found: found.read_bytes() for found in tmp_path.rglob("*") if found.is_file()} == before


def test_our_own_file_and_a_users_file_in_their_folder_are_replaced(sticky: Path, tmp_path: Path) -> None:
    for name in ("own", "new"):
        path = sticky / name
        if name == "own":
            path.touch()
        with file.locked(path):
            file.replace(path, b"new", mode=0o600)
        assert (path.read_bytes(), path.stat().st_uid) == (b"new", 0)
    theirs = tmp_path / "home"
    theirs.mkdir(mode=0o775)
    theirs.chmod(0o775)  # as for users with a group of their own and umask 002
    path = theirs / "config"
    path.touch()
    given(theirs)
    given(path)
    file.replace(path, b"new", mode=0o600)
    assert (path.read_bytes(), path.stat().st_uid) == (b"new", MALLORY)


@pytest.mark.parametrize(
    ("wanted", "folder", "contents"), [(None, 0o755, 0o644), (0o600, 0o700, 0o600)], ids=["public", "secret"]
)
def test_files_for_the_service_are_readable_under_any_umask(
    tmp_path: Path, wanted: int | None, folder: int, contents: int
) -> None:
    """With `sudo kubemux kubeconfig import` under umask 077, the service could read the CA file, but could
    not open the new folder `ca/`.
    """
    path = tmp_path / "ca" / "prod.crt"
    before = os.umask(0o077)
    try:
        file.replace(path, b"data", mode=wanted)
    finally:
        os.umask(before)
    assert (mode(path.parent), mode(path)) == (folder, contents)
