"""Sockets that outlive the process; tests/integration/test_restart.py tests whole restarts."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from proxy.entries import fd_store
from proxy.entries.binding import bind, canonical, end_listening
from proxy.entries.fd_store import FdStore
from proxy.runtime.blocking import Place
from proxy.runtime.endpoint import Endpoint, Local, UnixPath
from tests.support.ports import free_port


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A service manager's socket, which only the test reads."""
    path = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        sock.setblocking(False)
        yield sock


@pytest.mark.parametrize(
    ("given", "bound"),
    [
        (Endpoint("localhost", 1), Endpoint("127.0.0.1", 1)),
        (Endpoint("LocalHost", 1), Endpoint("127.0.0.1", 1)),
        (Endpoint("0:0:0::1", 1), Endpoint("::1", 1)),
        (Endpoint("::", 1), Endpoint("::", 1)),
        (Endpoint("bastion.example.com", 1), Endpoint("bastion.example.com", 1)),
    ],
    ids=str,
)
def test_an_address_is_compared_as_its_socket_reports_it(given: Endpoint, bound: Endpoint) -> None:
    assert canonical(given) == bound


ADDRESSES = st.builds(Endpoint, st.ip_addresses().map(str), st.integers(1, 65535))
PATHS = st.builds(UnixPath, st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=107))


@given(ADDRESSES | PATHS)
def test_systemd_accepts_the_names_in_the_store(address: Local) -> None:
    """systemd's fdname_is_valid() allows up to 255 printable ASCII characters without a colon."""
    name = fd_store._name(address)
    assert name.isascii()
    assert name.isprintable()
    assert ":" not in name
    assert len(name) <= 255


async def test_a_manager_that_does_not_answer_is_not_waited_for_long(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fd_store, "SETTLE_TIMEOUT_S", 0.01)
    address = Endpoint("127.0.0.1", free_port())
    kept = FdStore({})
    with await bind(address, Place("names")) as sock:
        kept.keep(address, sock)
        kept.keep(address, sock)
    kept.forget(address)
    # This address is not in the way, so there is no barrier.
    await kept.wait_until_free([Endpoint("127.0.0.1", address.port + 1 if address.port < 65535 else 1)])
    kept.forget(address)
    assert [manager.recv(200).decode().split("=")[0] for _ in range(2)] == ["FDSTORE", "FDSTOREREMOVE"]
    with pytest.raises(BlockingIOError):
        manager.recv(200)

    with await bind(address, Place("names")) as sock:
        kept.keep(address, sock)
    kept.forget(address)
    await kept.wait_until_free([Endpoint("0.0.0.0", address.port)])  # noqa: S104 - nothing is bound
    assert [manager.recv(200).decode().split("=")[0] for _ in range(3)] == [
        "FDSTORE",
        "FDSTOREREMOVE",
        "BARRIER",
    ]


async def test_a_port_that_is_wanted_later_is_still_waited_for(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reload asks twice: first for the clusters and entries that it adds, then for `ssh_server.listen`."""
    monkeypatch.setattr(fd_store, "SETTLE_TIMEOUT_S", 0.01)
    given_up = Endpoint("127.0.0.1", free_port())
    kept = FdStore({})
    with await bind(given_up, Place("names")) as sock:
        kept.keep(given_up, sock)
    kept.forget(given_up)
    await kept.wait_until_free([])
    await kept.wait_until_free([Endpoint("0.0.0.0", given_up.port)])  # noqa: S104 - nothing is bound
    await kept.wait_until_free([given_up])  # systemd was waited for already: no second barrier
    assert [manager.recv(200).decode().split("=")[0] for _ in range(3)] == [
        "FDSTORE",
        "FDSTOREREMOVE",
        "BARRIER",
    ]
    with pytest.raises(BlockingIOError):
        manager.recv(200)


async def test_an_unused_socket_is_closed_and_logged(manager: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as wanted, socket.create_server(("127.0.0.1", 0)) as stale:
        addresses = [Endpoint(*sock.getsockname()) for sock in (wanted, stale)]
        inherited = FdStore(dict(zip(addresses, (wanted, stale), strict=True)))
        with capture_logs() as logs:
            await inherited.close_unwanted([Endpoint("localhost", addresses[0].port)])
        assert [entry["listen"] for entry in logs] == [str(addresses[1])]
        assert stale.fileno() == -1
        assert manager.recv(200) == f"FDSTOREREMOVE=1\nFDNAME=listen-127.0.0.1_{addresses[1].port}".encode()
        assert inherited.claim(addresses[1]) is None
        assert inherited.claim(Endpoint("localhost", addresses[0].port)) is wanted
        assert inherited.claim(addresses[0]) is None


async def test_without_a_manager_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    address = Endpoint("127.0.0.1", free_port())
    kept = FdStore({})
    with await bind(address, Place("names")) as sock, capture_logs() as logs:
        kept.keep(address, sock)
        kept.forget(address)
        await kept.wait_until_free([address])
    assert logs == []


async def test_an_unused_unix_socket_is_closed_and_its_file_removed(
    manager: socket.socket, tmp_path: Path
) -> None:
    address = UnixPath(str(tmp_path / "s"))
    kept = FdStore({})
    sock = await bind(address, Place("names"))
    kept.keep(address, sock)
    assert kept.keeps(address)
    await FdStore({address: sock.dup()}).close_unwanted([])
    sock.close()
    said = [manager.recv(200).decode().replace(fd_store._name(address), "NAME") for _ in range(2)]
    assert said == ["FDSTORE=1\nFDNAME=NAME", "FDSTOREREMOVE=1\nFDNAME=NAME"]
    with await bind(address, Place("names")) as another:
        end_listening(another)


async def test_a_unix_socket_without_its_file_is_not_used(manager: socket.socket, tmp_path: Path) -> None:
    address = UnixPath(str(tmp_path / "s"))
    with await bind(address, Place("names")) as sock:
        (tmp_path / "s").rename(tmp_path / "other")
        assert FdStore({address: sock.dup()}).claim(address) is None
        assert manager.recv(200).startswith(b"FDSTOREREMOVE=1\n")
        (tmp_path / "other").rename(tmp_path / "s")
        with sock.dup() as copy:
            assert FdStore({address: copy}).claim(address) is copy
        end_listening(sock)


async def test_a_socket_that_the_manager_refuses_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    address = UnixPath(str(tmp_path / "s"))
    kept = FdStore({})
    with await bind(address, Place("names")) as sock, capture_logs() as logs:
        kept.keep(address, sock)
        assert not kept.keeps(address)
        end_listening(sock)
    assert [entry["event"] for entry in logs] == ["service manager not notified"]
