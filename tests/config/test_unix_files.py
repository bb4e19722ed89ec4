"""What this machine must have for a unix socket, beside what config/bad shows."""

from __future__ import annotations

import grp
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from proxy.config import unix_files
from proxy.config.model import EntryConfig
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
def test_what_this_user_may_not_see_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "closed" / "inner").mkdir(parents=True)
    (tmp_path / "closed").chmod(0o700)
    with as_other():
        assert messages(UnixPath(f"{tmp_path}/closed/inner/some.sock")) == []
