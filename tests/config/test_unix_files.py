"""What a unix socket needs on this machine; config/bad has more cases."""

from __future__ import annotations

import grp
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from proxy.config import unix_files
from proxy.config.model import Config, EntryConfig
from proxy.config.unix_files import gid_of
from proxy.runtime.endpoint import Local, UnixPath

HERE = ("entries", "proxy")


def messages(listen: Local, group: str | None = None) -> list[str]:
    return [found.message for found in unix_files.check(HERE, EntryConfig(listen=listen, group=group))]


@contextmanager
def as_other() -> Iterator[None]:
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_group_is_a_name_or_a_number() -> None:
    assert gid_of("4242") == 4242
    assert gid_of("root") == grp.getgrnam("root").gr_gid
    for no_group in ("no-such-group", "4294967295", "9" * 5000, "٣"):
        with pytest.raises(KeyError):
            gid_of(no_group)


def test_a_folder_that_the_unit_makes_need_not_be_there_yet(tmp_path: Path) -> None:
    assert messages(UnixPath("/run/kubemux-entries/some.sock")) == []
    assert messages(UnixPath("/run/kubemux/some.sock")) == []
    assert messages(UnixPath(f"{tmp_path}/some.sock")) == []
    assert messages(UnixPath("/run/kubemux-entries/none/some.sock")) == [
        "/run/kubemux-entries/none does not exist"
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another")
def test_a_folder_this_user_may_not_see_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "closed" / "inner").mkdir(parents=True)
    (tmp_path / "closed").chmod(0o700)
    with as_other():
        assert messages(UnixPath(f"{tmp_path}/closed/inner/some.sock")) == []


def test_a_file_in_the_way_of_a_socket_is_reported(tmp_path: Path) -> None:
    """This is only a warning: a user who may write to the folder must not be able to prevent the daemon's
    start.
    """
    for name in ("folder", "file", "link", "socket"):
        path = tmp_path / name
        match name:
            case "folder":
                path.mkdir()
            case "file":
                path.touch()
            case "link":
                path.symlink_to("nowhere")
            case _:
                with socket.socket(socket.AF_UNIX) as one:
                    one.bind(str(path))
    names = ("folder", "file", "link", "socket", "nothing")
    entries = {name: EntryConfig(listen=UnixPath(f"{tmp_path}/{name}")) for name in names}
    found = list(unix_files.in_the_way(Config(version=1, entries=entries)))
    assert [(one.loc, one.message) for one in found] == [
        (
            ("entries", name, "listen"),
            f"something is at {tmp_path}/{name} that is not a socket: nobody can connect there",
        )
        for name in names[:3]
    ]
