"""sd_notify(3), sd_watchdog_enabled(3) and sd_listen_fds(3) against real sockets and a real child process."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from proxy.runtime import systemd


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """The service manager's end of NOTIFY_SOCKET."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@kubemux-{secrets.token_hex(8)}"
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name.replace("@", "\0", 1) if request.param == "abstract" else name)
        sock.settimeout(30)
        yield sock


def test_assignments_go_in_one_datagram(manager: socket.socket) -> None:
    assert systemd.notify(systemd.READY, systemd.status("3/5 clusters up"))
    assert manager.recv(1024) == b"READY=1\nSTATUS=3/5 clusters up"


def test_a_reload_carries_the_monotonic_time(manager: socket.socket) -> None:
    before = time.monotonic_ns() // 1000
    assert systemd.notify(systemd.reloading())
    words = dict(line.split("=") for line in manager.recv(1024).decode().split("\n"))
    assert words["RELOADING"] == "1"
    assert before <= int(words["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000


def test_a_manager_that_does_not_read_is_not_waited_for(manager: socket.socket) -> None:
    with capture_logs() as logs:
        # Until its queue (net.unix.max_dgram_qlen) is full; a blocking send would hang here.
        sent = next(count for count in range(100_000) if not systemd.notify(systemd.WATCHDOG))
    assert sent > 0
    assert [entry["log_level"] for entry in logs] == ["warning"]
    assert logs[0]["socket"] == os.environ["NOTIFY_SOCKET"]
    assert manager.recv(1024) == b"WATCHDOG=1"
    assert systemd.notify(systemd.WATCHDOG)


def fill() -> None:
    """Fill the manager's queue."""
    with capture_logs():
        while systemd.notify(systemd.WATCHDOG):
            pass


async def test_ready_waits_until_the_manager_has_room(manager: socket.socket) -> None:
    async def until_ready() -> None:
        while await asyncio.to_thread(manager.recv, 1024) != b"READY=1\nSTATUS=up":
            pass

    fill()
    with capture_logs() as logs:
        await asyncio.gather(systemd.ready(systemd.status("up")), until_ready())
    assert logs == []


async def test_ready_does_not_wait_for_ever(manager: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    fill()
    monkeypatch.setattr(systemd, "READY_S", 0.1)
    with capture_logs() as logs:
        await systemd.ready()
    assert [entry["event"] for entry in logs] == ["service manager not notified"]


@pytest.mark.parametrize("name", ["/nonexistent/notify", "/" + "x" * 200, "vsock:2:1234"])
def test_a_manager_that_is_gone_is_a_warning(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    with capture_logs() as logs:
        assert not systemd.notify(systemd.READY)
    assert [entry["socket"] for entry in logs] == [name]


def test_without_a_manager_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    with capture_logs() as logs:
        assert not systemd.notify(systemd.READY)
    assert logs == []


@given(st.text(alphabet=st.characters()))
def test_a_status_with_any_text_is_one_assignment(text: str) -> None:
    assert systemd.status(f"{text}\nREADY=1").startswith("STATUS=")
    assert "\n" not in systemd.status(f"{text}\nREADY=1")


@pytest.mark.parametrize(
    ("usec", "pid", "expected"),
    [
        ("20000000", None, 10.0),
        pytest.param("3000000", str(os.getpid()), 1.5, id="ours"),
        ("3000000", "1", None),
        ("0", None, None),
        ("soon", None, None),
        ("", None, None),
        (None, None, None),
    ],
)
def test_the_watchdog_interval_is_half_of_what_systemd_gives_this_process(
    usec: str | None, pid: str | None, expected: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", pid)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert systemd.watchdog_interval() == expected


# As systemd does between fork and exec: the descriptors become 3, 4, …, and LISTEN_PID is the child's id.
_AS_SYSTEMD = """
import fcntl, os, sys
high = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 100) for fd in sys.argv[2:]]
for fd, copy in enumerate(high, 3):
    os.dup2(copy, fd)
os.closerange(3 + len(high), 256)
names = ":".join(["listen-x", *("x" for _ in high[1:])])
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(high)), "LISTEN_FDNAMES": names}
os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
"""
_CHILD = """
import json, os, stat
from structlog.testing import capture_logs
from proxy.runtime import systemd
with capture_logs() as logs:
    found = systemd.inherited_sockets()
for address, sock in found.items():
    client, _ = sock.accept()
    client.sendall(str(address).encode())
    client.close()
print(json.dumps({
    "types": [type(address).__name__ for address in found],
    "kinds": [type(sock).__name__ for sock in found.values()],
    "blocking": [sock.getblocking() for sock in found.values()],
    "inheritable": [sock.get_inheritable() for sock in found.values()],
    "environment": [name for name in os.environ if name.startswith("LISTEN_")],
    "refused": [entry["fd"] for entry in logs],
    "open": [fd for fd in range(3, 9) if os.path.exists(f"/proc/self/fd/{fd}")],
    "again": len(systemd.inherited_sockets()),
}))
"""


def test_a_child_finds_its_sockets_by_address(tmp_path: Path) -> None:
    with ExitStack() as stack:
        loopback = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        ipv6 = stack.enter_context(socket.create_server(("::1", 0), family=socket.AF_INET6))
        path = stack.enter_context(socket.socket(socket.AF_UNIX))
        path.bind(str(tmp_path / "admin.sock"))
        path.listen()
        datagram = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        idle = stack.enter_context(socket.socket())
        plain = stack.enter_context((tmp_path / "file").open("w"))
        # Connected before a process accepts: the backlog belongs to the socket, and is passed on with it.
        clients = {
            f"127.0.0.1:{loopback.getsockname()[1]}": stack.enter_context(
                socket.create_connection(loopback.getsockname())
            ),
            f"[::1]:{ipv6.getsockname()[1]}": stack.enter_context(
                socket.create_connection(ipv6.getsockname()[:2])
            ),
            f"unix:{tmp_path}/admin.sock": stack.enter_context(socket.socket(socket.AF_UNIX)),
        }
        clients[f"unix:{tmp_path}/admin.sock"].connect(str(tmp_path / "admin.sock"))
        fds = [thing.fileno() for thing in (loopback, datagram, ipv6, idle, path, plain)]
        command = [sys.executable, "-c", _AS_SYSTEMD, _CHILD, *map(str, fds)]
        child = subprocess.run(command, pass_fds=fds, capture_output=True, text=True, timeout=30, check=False)
        assert child.returncode == 0, child.stderr
        assert json.loads(child.stdout) == {
            "types": ["Endpoint", "Endpoint", "UnixPath"],
            "kinds": ["PlainSocket", "Activated", "Activated"],  # a socket unit listens on the others, too
            "blocking": [False] * 3,
            "inheritable": [False] * 3,
            "environment": [],
            "refused": [4, 6, 8],
            "open": [3, 5, 7],
            "again": 0,
        }
        for address, client in clients.items():
            client.settimeout(30)
            assert client.recv(1024).decode() == address


@pytest.mark.parametrize(
    ("pid", "count"),
    [("1", "1"), (str(os.getpid()), "many"), (str(os.getpid()), "0"), ("", "1")],
    ids=["another", "no-number", "none", "nobody"],
)
def test_sockets_of_another_process_are_left_alone(
    pid: str, count: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("PID", pid), ("FDS", count), ("FDNAMES", "x")):
        monkeypatch.setenv(f"LISTEN_{name}", value)
    assert systemd.inherited_sockets() == {}
    assert not [name for name in os.environ if name.startswith("LISTEN_")]
