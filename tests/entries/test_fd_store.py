"""Sockets that outlive the process, beside what restarts show (tests/integration/test_restart.py)."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from proxy.entries import fd_store
from proxy.entries.binding import bind, canonical
from proxy.entries.fd_store import FdStore
from proxy.runtime.blocking import Place
from proxy.runtime.endpoint import Endpoint
from tests.support.ports import free_port


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A service manager's socket that nobody reads unless the test does."""
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
def test_an_address_as_its_socket_says_it(given: Endpoint, bound: Endpoint) -> None:
    assert canonical(given) == bound


@given(st.ip_addresses().map(str), st.integers(1, 65535))
def test_names_in_the_store_are_what_systemd_takes(host: str, port: int) -> None:
    """fdname_is_valid() of systemd: printable ASCII without a colon, up to 255 of it."""
    name = fd_store._name(Endpoint(host, port))
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
    # Not in its way: no barrier.
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


async def test_what_nobody_wants_is_closed_and_said(manager: socket.socket) -> None:
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


async def test_without_a_manager_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    address = Endpoint("127.0.0.1", free_port())
    kept = FdStore({})
    with await bind(address, Place("names")) as sock, capture_logs() as logs:
        kept.keep(address, sock)
        kept.forget(address)
        await kept.wait_until_free([address])
    assert logs == []
