"""Kept listeners on unix sockets; tests/integration/test_restart.py tests whole restarts."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
import threading
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from proxy.config.listen import Permissions
from proxy.entries import binding
from proxy.entries.arrival import Caller
from proxy.entries.fd_store import FdStore
from proxy.entries.keeping import KeptListener
from proxy.entries.listener import Listener
from proxy.runtime.endpoint import UnixPath
from proxy.runtime.systemd import Activated

SECONDS = 30.0


class Served:
    """One kept listener on a unix socket, and its clients."""

    def __init__(
        self,
        path: Path,
        *,
        inherited: socket.socket | None = None,
        listener: Listener | None = None,
        **keys: str,
    ) -> None:
        self.address = UnixPath(str(path))
        self.callers: asyncio.Queue[Caller] = asyncio.Queue()
        self.changes = 0
        self.kept = KeptListener(
            self.address,
            self._client,
            FdStore({self.address: inherited} if inherited else {}),
            permissions=Permissions.of(int(keys["mode"], 8) if "mode" in keys else None, keys.get("group")),
            owner={"cluster": "prod"},
            on_change=self._changed,
            listener=listener,
        )

    def _changed(self) -> None:
        self.changes += 1

    def _client(self, sock: socket.socket, caller: Caller) -> None:
        sock.close()
        self.callers.put_nowait(caller)

    async def connect_client(self) -> Caller:
        """Connect a client, and wait for it."""
        with socket.socket(socket.AF_UNIX) as client:
            client.setblocking(False)
            client.connect(self.address.path)
            async with asyncio.timeout(SECONDS):
                return await self.callers.get()

    async def end(self) -> None:
        self.kept.stop_accepting()
        await self.kept.close()


@pytest.fixture(autouse=True)
def no_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


def mode_of(path: Path) -> str:
    return stat.filemode(path.lstat().st_mode)


def for_all(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.setblocking(False)
    sock.bind(str(path))
    path.chmod(0o666)
    sock.listen()
    return sock


def connected(path: Path) -> int:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path))


async def test_clients_have_no_address_and_the_file_is_removed_with_the_listener(path: Path) -> None:
    served = Served(path, mode="0660", group=str(os.getegid()))
    await served.kept.start()
    assert mode_of(path) == "srw-rw----"
    assert await served.connect_client() == Caller(None)
    await served.end()
    assert connected(path) == errno.ENOENT


async def test_a_client_whose_own_socket_has_a_path_has_no_address_either(path: Path, tmp_path: Path) -> None:
    served = Served(path)
    await served.kept.start()
    with socket.socket(socket.AF_UNIX) as client:
        client.bind(str(tmp_path / "mine"))
        client.connect(str(path))
        async with asyncio.timeout(SECONDS):
            assert await served.callers.get() == Caller(None)
    await served.end()


async def test_the_kernel_refuses_clients_only_if_it_can_admit_them_again(path: Path) -> None:
    served = Served(path)
    await served.kept.start()
    served.kept.admit_or_refuse(is_hopeless=True, because={})
    assert not served.kept.listener.is_refusing
    served.kept.listener.refuse()
    await served.connect_client()
    await served.end()


async def test_an_inherited_socket_gets_the_configured_mode(path: Path) -> None:
    served = Served(path, inherited=for_all(path), mode="0640")
    await served.kept.start()
    assert mode_of(path) == "srw-r-----"
    await served.connect_client()
    await served.end()


async def test_the_socket_of_a_socket_unit_is_not_changed(path: Path) -> None:
    unit = for_all(path)
    ours = Activated(fileno=os.dup(unit.fileno()))
    served = Served(path, inherited=ours, mode="0600")
    await served.kept.start()
    served.kept.set_permissions(Permissions(0o640))
    await served.connect_client()
    served.kept.release()
    await served.end()
    assert mode_of(path) == "srw-rw-rw-"
    assert connected(path) == 0  # the unit starts the service again
    unit.close()


async def test_another_listener_takes_over_and_has_other_permissions(path: Path) -> None:
    first = Served(path)
    await first.kept.start()
    second = Served(path, listener=first.kept.listener, mode="0666")
    await first.kept.close()
    await second.kept.start()
    assert mode_of(path) == "srw-rw-rw-"
    await second.connect_client()
    await second.end()


async def test_with_a_missing_group_only_the_owner_can_connect_and_it_is_reported(path: Path) -> None:
    served = Served(path, mode="0666")
    await served.kept.start()
    with capture_logs() as logs:
        served.kept.set_permissions(Permissions(0o660, "no-such-group"))
        await asyncio.wait_for(served.kept._tasks.wait(), SECONDS)
    assert [entry["event"] for entry in logs] == ["listener failed"]
    assert "there is no group no-such-group" in str(served.kept.error)
    assert mode_of(path) == "srw-------"
    served.kept.set_permissions(Permissions(0o660))
    await asyncio.wait_for(served.kept._tasks.wait(), SECONDS)
    assert served.kept.error is None
    assert mode_of(path) == "srw-rw----"
    await served.end()


async def test_the_last_of_several_changes_decides(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lookup of a group runs in a thread, so a later change without a group may overtake it."""
    entered, released = threading.Event(), threading.Event()

    def slowly(group: str) -> int:
        entered.set()
        assert released.wait(SECONDS)
        return int(group)

    monkeypatch.setattr(binding, "gid_of", slowly)
    served = Served(path)
    await served.kept.start()
    served.kept.set_permissions(Permissions(0o666, str(os.getegid())))
    await asyncio.to_thread(entered.wait, SECONDS)
    served.kept.set_permissions(Permissions(0o640))
    await asyncio.sleep(0)
    released.set()
    await asyncio.wait_for(served.kept._tasks.wait(), SECONDS)
    assert mode_of(path) == "srw-r-----"
    await served.end()


async def test_a_path_that_another_process_has_is_bound_when_it_is_free(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.entries.keeping.REBIND_S", 0.01)
    served = Served(path)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        await served.kept.start()
        assert "another process listens there" in str(served.kept.error)
        assert connected(path) == 0
    async with asyncio.timeout(SECONDS):
        while not served.changes:
            await asyncio.sleep(0.01)
    await served.connect_client()
    assert served.kept.error is None
    await served.end()
    assert connected(path) == errno.ENOENT
