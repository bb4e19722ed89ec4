"""Identification of clients: several users, clients that have gone, and systems that do not show the user."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from proxy.entries.callers import hidden, uid_of
from proxy.runtime import sock_diag
from tests.support.users import ROOT_ONLY, as_user

CHECKOUT: Final = Path(__file__).parents[2]
Connect = Callable[[], tuple[socket.socket, socket.socket]]


@pytest.fixture(params=["unix", "tcp", "tcp6"])
def connect(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Connect]:
    """A function that makes a client; it returns both sockets, the client's and the accepted one."""
    with ExitStack() as stack:
        if request.param == "unix":
            server = socket.socket(socket.AF_UNIX)
            server.bind("")  # the kernel chooses an abstract name, which every user may use
            server.listen()
        elif request.param == "tcp":
            server = socket.create_server(("127.0.0.1", 0))
        else:
            server = socket.create_server(("::1", 0), family=socket.AF_INET6)
        stack.enter_context(server)

        def connect() -> tuple[socket.socket, socket.socket]:
            client = stack.enter_context(socket.socket(server.family))
            client.settimeout(60)
            client.connect(server.getsockname())
            return client, stack.enter_context(server.accept()[0])

        yield connect


@ROOT_ONLY
def test_each_client_has_the_uid_of_its_user(connect: Connect) -> None:
    accepted = {}
    for uid in (1002, 1003, 0):
        with as_user(uid):
            accepted[uid] = connect()[1]
    assert {uid: uid_of(sock) for uid, sock in accepted.items()} == {uid: uid for uid in accepted}


@ROOT_ONLY
def test_the_overflow_uid_is_no_uid(connect: Connect) -> None:
    with as_user(int(Path("/proc/sys/kernel/overflowuid").read_text())):
        _, accepted = connect()
    assert uid_of(accepted) is None


def test_a_client_that_has_sent_and_closed_is_never_root(connect: Connect) -> None:
    """On a unix socket its user is still known; on TCP it is unknown."""
    client, accepted = connect()
    client.sendall(b"x")
    client.close()
    expected = os.geteuid() if accepted.family == socket.AF_UNIX else None
    assert uid_of(accepted) == expected


@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET, socket.AF_INET6])
def test_a_socket_without_a_client_has_no_uid(family: int) -> None:
    with socket.socket(family) as alone:
        assert uid_of(alone) is None


def test_this_system_shows_socket_owners() -> None:
    assert hidden(tcp=True) is None
    assert hidden(tcp=False) is None


# A unix pair and a TCP connection of the process itself. By the uids in the namespace, both would be root's.
_MAPPED: Final = """
import os, socket
from proxy.entries.callers import hidden, uid_of
assert os.geteuid() == 0
ours, theirs = socket.socketpair()
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
accepted, _ = server.accept()
print(uid_of(ours), uid_of(accepted))
print(hidden(tcp=False).why)
print(hidden(tcp=True).remedy)
"""


@pytest.mark.user_namespace
def test_in_a_user_namespace_no_uid_is_known() -> None:
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", sys.executable, "-c", _MAPPED],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    *logged, uids, why, remedy = done.stdout.splitlines()
    assert ["may be anybody" in line for line in logged] == [True, True]
    assert uids == "None None"
    assert "in a user namespace" in why
    assert "PrivateUsers=" in remedy


class NoNetlink:
    """Replaces `socket.socket`: netlink sockets fail with `error`."""

    def __init__(self, error: int) -> None:
        self._error = error
        self._socket = socket.socket

    def __call__(self, family: int, *more: int) -> socket.socket:
        if family == socket.AF_NETLINK:
            raise OSError(self._error, os.strerror(self._error))
        return self._socket(family, *more)


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (errno.EPERM, "AF_NETLINK in RestrictAddressFamilies= of the unit"),
        (errno.EAFNOSUPPORT, "AF_NETLINK in RestrictAddressFamilies= of the unit"),
        (errno.EPROTONOSUPPORT, "modprobe tcp_diag"),
        (errno.ENOENT, "modprobe tcp_diag"),
        (errno.EINVAL, "this kernel or sandbox has no sock_diag(7)"),
    ],
)
def test_a_system_that_hides_socket_owners_is_detected_and_no_uid_is_known(
    monkeypatch: pytest.MonkeyPatch, error: int, remedy: str
) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()),
        server.accept()[0] as accepted,
    ):
        monkeypatch.setattr(socket, "socket", NoNetlink(error))
        assert uid_of(accepted) is None
        found = hidden(tcp=True)
    assert found is not None
    assert remedy in found.remedy
    assert "unix socket" in found.remedy
    assert os.strerror(error) in found.why
    assert hidden(tcp=False) is None, "unix sockets do not need netlink"


@pytest.mark.parametrize("says", [4294967294, ValueError("the kernel's answer has no socket")])
def test_a_system_with_wrong_socket_owners_is_detected(
    monkeypatch: pytest.MonkeyPatch, says: int | ValueError
) -> None:
    """A sandbox may emulate sock_diag(7) wrongly."""

    def peer_uid(_sock: socket.socket) -> int:
        if isinstance(says, int):
            return says
        raise says

    monkeypatch.setattr(sock_diag, "peer_uid", peer_uid)
    found = hidden(tcp=True)
    assert found is not None
    assert "no sock_diag(7)" in found.remedy
