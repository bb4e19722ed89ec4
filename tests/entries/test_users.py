"""Passwords of proxy users: which are accepted, what a check costs, and changes of the file."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import bcrypt
import pytest

from proxy.config.files import Unusable
from proxy.entries import users as module
from proxy.entries.users import MOST_CHECKS, Busy, Users

pytestmark = pytest.mark.both_loops


def hashed(password: str, cost: int = 4) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost)).decode()


CI: Final = f"ci:{hashed('of ci')}\n"
ARGO: Final = f"argo:{hashed('of argo')}\n"


def write(path: Path, text: str) -> None:
    """Write the file, with a new stamp even if the file system's clock is coarse."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.touch(mode=0o600)
    path.write_text(text)
    os.utime(path, ns=(before + 10**9, before + 10**9))


class Bcrypt:
    """Counts the checks, and can block them."""

    def __init__(self, check: Callable[[bytes, bytes], bool]) -> None:
        self._check = check
        self.asked: list[tuple[bytes, bytes]] = []
        self.may_end = threading.Event()
        self.may_end.set()

    def __call__(self, password: bytes, hashed: bytes) -> bool:
        self.asked.append((password, hashed))
        assert self.may_end.wait(60)
        return self._check(password, hashed)

    async def until_asked(self) -> None:
        async with asyncio.timeout(30):
            while not self.asked:
                await asyncio.sleep(0.001)


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> Bcrypt:
    checks = Bcrypt(bcrypt.checkpw)
    monkeypatch.setattr(bcrypt, "checkpw", checks)
    return checks


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "users"
    write(path, CI + ARGO)
    return path


@pytest.fixture
async def users(path: Path, checks: Bcrypt) -> AsyncIterator[Users]:
    users = Users(path)
    await users.load()
    yield users
    checks.may_end.set()
    await users.close()


async def test_only_the_right_password_is_accepted(users: Users) -> None:
    assert await users.is_right("ci", b"of ci")
    assert await users.is_right("argo", b"of argo")
    for user, password in (("ci", b"of argo"), ("ci", b""), ("CI", b"of ci"), ("", b""), ("\udcff", b"\xff")):
        assert not await users.is_right(user, password), (user, password)


async def test_only_right_passwords_are_cached(users: Users, checks: Bcrypt) -> None:
    for _ in range(3):
        assert await users.is_right("ci", b"of ci")
    assert len(checks.asked) == 1
    for count in (2, 3, 4):
        assert not await users.is_right("ci", b"wrong")
        assert len(checks.asked) == count
    assert await users.is_right("ci", b"of ci"), "a wrong password does not remove the proof of the right one"
    assert len(checks.asked) == 4
    assert b"of ci" not in repr(vars(users)).encode()


async def test_an_unknown_user_costs_the_same_check_each_time(users: Users, checks: Bcrypt) -> None:
    """Each unknown name is checked with the hash of some user. Different names get different hashes, because
    costs, and so times, may differ.
    """
    for _ in range(2):
        assert not await users.is_right("eve", b"of ci")
    (_, first), (_, second) = checks.asked
    assert first == second
    assert first.decode() in CI + ARGO
    checks.asked.clear()
    for number in range(64):
        assert not await users.is_right(f"eve{number}", b"of ci"), "also if the other user has this password"
    assert {hashed.decode() in CI for _, hashed in checks.asked} == {True, False}
    assert len(checks.asked) == 64


async def test_only_the_bytes_of_a_password_that_bcrypt_uses_are_compared(path: Path, checks: Bcrypt) -> None:
    """htpasswd(1) hashes the first 72 bytes; the bcrypt package refuses a longer password."""
    write(path, f"ci:{hashed('x' * 72)}\n")
    users = Users(path)
    await users.load()
    assert await users.is_right("ci", b"x" * 100)
    assert await users.is_right("ci", b"x" * 72)
    assert not await users.is_right("ci", b"x" * 71)
    await users.close()


async def test_without_users_no_password_is_accepted(path: Path, checks: Bcrypt) -> None:
    write(path, "")
    users = Users(path)
    await users.load()
    assert not await users.is_right("ci", b"of ci")
    assert checks.asked == []


async def test_clients_of_one_user_at_the_same_time_cost_one_check(users: Users, checks: Bcrypt) -> None:
    checks.may_end.clear()
    clients = 0

    async def client() -> bool:
        nonlocal clients
        clients += 1
        return await users.is_right("ci", b"of ci")

    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(client()) for _ in range(4 * MOST_CHECKS)]
        await checks.until_asked()
        while clients < len(waiting):
            await asyncio.sleep(0)
        waiting[0].cancel()
        checks.may_end.set()
    assert all(task.result() for task in waiting[1:])
    assert len(checks.asked) == 1


async def test_a_flood_of_guesses_waits_and_known_users_are_served(users: Users, checks: Bcrypt) -> None:
    assert await users.is_right("argo", b"of argo")
    checks.asked.clear()
    checks.may_end.clear()
    async with asyncio.TaskGroup() as group:
        waiting = [
            group.create_task(users.is_right("ci", b"guess %d" % number)) for number in range(MOST_CHECKS)
        ]
        while len(users._checks) < MOST_CHECKS:
            await asyncio.sleep(0)
        with pytest.raises(Busy):
            await users.is_right("ci", b"of ci")
        assert await users.is_right("argo", b"of argo")
        checks.may_end.set()
    assert not any(task.result() for task in waiting)
    assert await users.is_right("ci", b"of ci")


async def test_a_check_that_takes_too_long_is_no_wrong_password(
    users: Users, checks: Bcrypt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHECK_S", 0.05)
    checks.may_end.clear()
    with pytest.raises(Busy):
        await users.is_right("ci", b"of ci")


async def change(users: Users, path: Path, text: str) -> None:
    write(path, text)
    await users.load()


async def test_a_changed_file_applies_at_once_to_cached_passwords(
    users: Users, path: Path, checks: Bcrypt
) -> None:
    assert await users.is_right("ci", b"of ci")
    assert await users.is_right("argo", b"of argo")
    await change(users, path, f"ci:{hashed('another')}\n{ARGO}")
    checks.asked.clear()
    assert await users.is_right("argo", b"of argo")
    assert checks.asked == [], "this user's line has not changed"
    assert not await users.is_right("ci", b"of ci")
    assert await users.is_right("ci", b"another")
    await change(users, path, "")
    assert not await users.is_right("ci", b"another")
    assert not await users.is_right("argo", b"of argo")


async def test_a_user_removed_during_the_password_check_is_refused(
    users: Users, path: Path, checks: Bcrypt
) -> None:
    checks.may_end.clear()
    waiting = asyncio.get_running_loop().create_task(users.is_right("ci", b"of ci"))
    await checks.until_asked()
    await change(users, path, ARGO)
    checks.may_end.set()
    assert not await waiting
    await change(users, path, CI + ARGO)
    checks.asked.clear()
    assert await users.is_right("ci", b"of ci")
    assert len(checks.asked) == 1, "the proof was not kept, either"


def remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def open_to_all(path: Path) -> None:
    path.chmod(0o644)


def spoil(path: Path) -> None:
    write(path, CI + "argo:{SHA}6dcfXufJLW3J6S/9rRe4vUlBj5g=\n")


@pytest.mark.parametrize(
    ("break_it", "said", "hint"),
    [
        (remove, "does not exist", "create it"),
        (open_to_all, "is a secret that others may read", "chmod 600 "),
        (spoil, "line 2 has no bcrypt hash for 'argo'", "htpasswd -B -C 12 "),
    ],
)
async def test_a_file_that_cannot_be_used_is_refused_and_the_users_stay(
    users: Users, path: Path, break_it: Callable[[Path], None], said: str, hint: str
) -> None:
    break_it(path)
    with pytest.raises(Unusable, match=said) as caught:
        await Users(path).load()
    assert hint in caught.value.hint
    with pytest.raises(Unusable, match=said):
        await users.load()
    assert await users.is_right("argo", b"of argo")
    remove(path)
    await change(users, path, f"argo:{hashed('another')}\n")
    assert await users.is_right("argo", b"another")
