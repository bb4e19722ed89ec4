"""The identities of a uid, also while NSS is slow or hangs."""

from __future__ import annotations

import asyncio
import grp
import os
import pwd
import threading
from collections.abc import AsyncIterator, Iterator

import pytest
from structlog.testing import capture_logs

from proxy.entries import identities
from proxy.entries.identities import KEPT_S, MOST_KEPT, Identities, identities_of
from tests.support.deadlines import wait_for_entry

pytestmark = pytest.mark.both_loops


class Directory:
    """A lookup that returns when the test says so."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.groups: dict[int, str] = {}
        self.answers = threading.Event()
        self.answers.set()
        self.is_asked = threading.Event()

    def __call__(self, uid: int) -> frozenset[str]:
        self.asked.append(uid)
        self.is_asked.set()
        assert self.answers.wait(60)
        return frozenset({f"uid:{uid}", self.groups.get(uid, "gid:none")})

    async def until_asked(self) -> None:
        async with asyncio.timeout(30):
            while not self.is_asked.is_set():
                await asyncio.sleep(0.001)


@pytest.fixture
def directory() -> Iterator[Directory]:
    directory = Directory()
    yield directory
    directory.answers.set()


@pytest.fixture
async def known(directory: Directory) -> AsyncIterator[Identities]:
    known = Identities(directory)
    yield known
    directory.answers.set()
    await known.close()


def test_root_of_this_machine_has_its_number_its_name_and_its_groups() -> None:
    assert {"uid:0", "uid:root", "gid:0", "gid:root"} <= identities_of(0)


def test_all_groups_of_a_user_count_and_not_the_first_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    user = pwd.struct_passwd(("alice", "x", 1002, 1002, "", "/", "/bin/sh"))
    groups = {1002: "alice", 27: "sre"}
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: {1002: user}[uid])
    monkeypatch.setattr(os, "getgrouplist", lambda name, gid: {"alice": [gid, 27, 4040]}[name])
    monkeypatch.setattr(grp, "getgrgid", lambda gid: grp.struct_group((groups[gid], "x", gid, [])))
    assert identities_of(1002) == {
        *("uid:1002", "uid:alice"),
        *("gid:1002", "gid:alice", "gid:27", "gid:sre"),
        "gid:4040",
    }


def test_a_numeric_name_is_no_uid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a user called `0` would count as root."""
    user = pwd.struct_passwd(("0", "x", 1002, 1002, "", "/", "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda _: user)
    monkeypatch.setattr(os, "getgrouplist", lambda _, gid: [gid])
    monkeypatch.setattr(grp, "getgrgid", lambda gid: grp.struct_group(("27", "x", gid, [])))
    assert identities_of(1002) == {"uid:1002", "gid:1002"}


def test_a_uid_without_a_name_has_its_number_alone() -> None:
    assert identities_of(3_999_999_999) == {"uid:3999999999"}


async def test_an_unknown_uid_has_no_identity_and_no_lookup(known: Identities, directory: Directory) -> None:
    assert await known.of(None) == frozenset()
    assert directory.asked == []


async def test_an_answer_is_kept_for_a_minute(known: Identities, directory: Directory) -> None:
    directory.groups[1002] = "gid:sre"
    before = asyncio.get_running_loop().time()
    assert await known.of(1002) == {"uid:1002", "gid:sre"}
    directory.groups[1002] = "gid:guests"
    assert await known.of(1002) == {"uid:1002", "gid:sre"}
    assert directory.asked == [1002]
    kept = known._kept[1002]
    assert before + KEPT_S <= kept.until <= asyncio.get_running_loop().time() + KEPT_S
    known._kept[1002] = kept._replace(until=kept.until - KEPT_S)
    assert await known.of(1002) == {"uid:1002", "gid:guests"}


async def test_callers_of_one_uid_share_a_lookup_that_survives_a_cancelled_caller(
    known: Identities, directory: Directory
) -> None:
    directory.answers.clear()
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(known.of(1002)) for _ in range(50)]
        await directory.until_asked()
        waiting[0].cancel()
        directory.answers.set()
    assert waiting[0].cancelled()
    assert {task.result() for task in waiting[1:]} == {frozenset({"uid:1002", "gid:none"})}
    assert directory.asked == [1002]


async def test_while_the_directory_hangs_a_uid_has_its_number_alone_and_the_log_says_so_once(
    known: Identities, directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for_entry(monkeypatch, directory.is_asked)
    directory.answers.clear()
    with capture_logs() as logs:
        with monkeypatch.context() as patch:
            patch.setattr(identities, "LOOKUP_S", 0.05)
            assert await known.of(1002) == {"uid:1002"}
        async with asyncio.timeout(30):
            assert await known.of(1003) == {"uid:1003"}, (
                "the second call fails at once, because the first one hangs"
            )
        assert directory.asked == [1002]
        directory.answers.set()
        async with asyncio.timeout(30):
            while await known.of(1002) == {"uid:1002"}:  # the failure is not kept, so there is another lookup
                await asyncio.sleep(0.001)
        assert await known.of(1003) == {"uid:1003", "gid:none"}
    assert [entry["event"] for entry in logs] == [
        "users and groups cannot be looked up",
        "users and groups can be looked up again",
    ]
    assert "getent passwd 1002" in logs[0]["hint"]


async def test_while_the_lookup_fails_a_uid_has_its_number_alone() -> None:
    answers: list[OSError | frozenset[str]] = [OSError(24, "Too many open files"), frozenset({"gid:sre"})]

    def look_up(_: int) -> frozenset[str]:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    known = Identities(look_up)
    with capture_logs() as logs:
        assert await known.of(1002) == {"uid:1002"}
        assert await known.of(1002) == {"gid:sre"}, "the failure is not kept"
    assert [entry.get("message") for entry in logs] == ["[Errno 24] Too many open files", None]
    await known.close()


async def test_close_does_not_wait_for_a_hanging_lookup(directory: Directory) -> None:
    known = Identities(directory)
    directory.answers.clear()
    waiting = asyncio.get_running_loop().create_task(known.of(1002))
    await directory.until_asked()
    await known.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_user_of_many_uids_does_not_fill_the_memory(known: Identities, directory: Directory) -> None:
    for uid in range(MOST_KEPT + 20):
        known._keep(uid, identities._Kept(1e12, frozenset()))
    assert len(known._kept) == MOST_KEPT
    assert min(known._kept) == 20, "the oldest are forgotten"
