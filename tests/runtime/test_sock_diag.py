"""The owner of the other end of a loopback connection, as the kernel reports it; and malformed answers."""

from __future__ import annotations

import array
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.runtime import sock_diag
from proxy.runtime.sock_diag import End, Found, owner, peer_uid, question, read
from tests.support.users import ROOT_ONLY, as_user

CHECKOUT: Final = Path(__file__).parents[2]
UID: Final = 4242
NEAR: Final = End.of(("127.0.0.1", 40000))
FAR: Final = End.of(("127.0.0.1", 16443))
# An answer of Linux 6.18, with two attributes at the end that were not requested; the uid is changed.
ANSWER: Final = bytes.fromhex(
    "78000000 1400 0000 01000000 680b0000"  # 120 bytes, SOCK_DIAG_BY_FAMILY, sequence 1
    "02 01 00 00 9c40 403b"  # IPv4, established, ports 40000 and 16443
    "7f000001 000000000000000000000000 7f000001 000000000000000000000000"
    "00000000 0000000000000000 00000000 00000000 00000000 ea030000 5ced8c00"
    "0500080000000000 0500090000000000 0800160000000000 0000000000000000"
)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def connected(stack: ExitStack, family: int, listen: str, to: str) -> tuple[socket.socket, socket.socket]:
    """A client and what its server accepts."""
    server = stack.enter_context(
        socket.create_server((listen, 0), family=family, dualstack_ipv6=listen == "::")
    )
    client = stack.enter_context(socket.create_connection((to, server.getsockname()[1]), timeout=60))
    return client, stack.enter_context(server.accept()[0])


WAYS: Final = pytest.mark.parametrize(
    ("family", "listen", "to"),
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
        (socket.AF_INET, "127.0.0.9", "127.0.0.9"),
        (socket.AF_INET6, "::1", "::1"),
        (socket.AF_INET6, "::", "127.0.0.1"),
        (socket.AF_INET6, "::", "::ffff:127.0.0.1"),
        (socket.AF_INET, "0.0.0.0", "::ffff:127.0.0.1"),  # noqa: S104 - asked for over loopback
    ],
)


@WAYS
@ROOT_ONLY
def test_the_uid_is_that_of_the_client(stack: ExitStack, family: int, listen: str, to: str) -> None:
    with as_user(UID):
        _, accepted = connected(stack, family, listen, to)
    _, own = connected(stack, family, listen, to)
    assert peer_uid(accepted) == UID
    assert peer_uid(own) == 0


@WAYS
def test_a_client_that_has_closed_is_not_taken_for_root(
    stack: ExitStack, family: int, listen: str, to: str
) -> None:
    client, accepted = connected(stack, family, listen, to)
    client.sendall(b"CONNECT")
    ends = End.of(accepted.getpeername()), End.of(accepted.getsockname())
    assert peer_uid(accepted) == os.geteuid()
    client.close()
    with pytest.raises(ValueError, match="the client has closed its socket"):
        peer_uid(accepted)
    assert accepted.recv(7) == b"CONNECT", "the kernel finds the closed socket"
    # The kernel's answer has uid 0, which alone would mean root.
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, sock_diag._NETLINK_SOCK_DIAG) as kernel:
        found = sock_diag._ask(kernel, *ends, sequence=7)
    assert (found.uid, found.inode) == (0, 0)
    assert found.state != sock_diag.ESTABLISHED


@pytest.mark.parametrize("uid", [0, UID])
def test_a_socket_that_is_not_established_has_no_owner(uid: int) -> None:
    """Newer kernels may keep the uid of a closed socket, and a socket in any state may have no program."""
    assert owner(Found(sock_diag.ESTABLISHED, uid, 7)) == uid
    for state, inode in ((sock_diag.ESTABLISHED, 0), (4, 7), (4, 0), (10, 7)):
        with pytest.raises(ValueError, match="has closed its socket"):
            owner(Found(state, uid, inode))


def test_a_half_closed_connection_is_not_established(stack: ExitStack) -> None:
    client, accepted = connected(stack, socket.AF_INET, "127.0.0.1", "127.0.0.1")
    client.shutdown(socket.SHUT_WR)
    with pytest.raises(ValueError, match="the client has closed its socket"):
        peer_uid(accepted)


def test_a_reset_connection_has_no_owner(stack: ExitStack) -> None:
    client, accepted = connected(stack, socket.AF_INET, "127.0.0.1", "127.0.0.1")
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    with pytest.raises(ConnectionResetError):  # the kernel may be late with the reset
        accepted.recv(1)
    with pytest.raises(OSError, match="not connected"):
        peer_uid(accepted)


def test_an_answer_about_a_listener_is_rejected(stack: ExitStack) -> None:
    server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    near = End.of(server.getsockname())
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, sock_diag._NETLINK_SOCK_DIAG) as kernel:
        kernel.send(question(near, FAR, sequence=3))
        answer = kernel.recv(8192)
    assert len(answer) > 88, "the kernel has found a socket"
    with pytest.raises(ValueError, match="no socket with these ends"):
        read(answer, near, FAR, sequence=3)


def test_the_kernel_says_that_there_is_no_such_socket() -> None:
    with (
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, sock_diag._NETLINK_SOCK_DIAG) as kernel,
        pytest.raises(FileNotFoundError),
    ):
        sock_diag._ask(kernel, End(NEAR.address, 1), End(NEAR.address, 2), sequence=1)


def test_only_clients_over_loopback_are_on_this_machine(stack: ExitStack) -> None:
    with pytest.raises(ValueError, match="not come over loopback"):
        peer_uid(Peer("10.0.0.9"))


class Peer(socket.socket):
    """A client on another machine."""

    def __init__(self, host: str) -> None:
        self._host = host

    def getsockname(self) -> tuple[str, int]:
        return self._host, 16443

    def getpeername(self) -> tuple[str, int]:
        return self._host, 40000


# Listens and connects in a network namespace, and passes the accepted socket to the test.
_ELSEWHERE: Final = """
import array, socket, subprocess, sys
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
client = socket.create_connection(server.getsockname(), source_address=("127.0.0.1", int(sys.argv[2])))
accepted, _ = server.accept()
out = socket.socket(fileno=int(sys.argv[3]))
out.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [accepted.fileno()]))])
sys.stdin.read()
"""


@pytest.mark.network
def test_a_socket_of_another_network_is_not_taken_for_one_of_ours(stack: ExitStack) -> None:
    """Both namespaces have a connection with the same two ends. systemd may pass a listener of another
    namespace.
    """
    with as_user(UID):
        client, accepted = connected(stack, socket.AF_INET, "127.0.0.1", "127.0.0.1")
    ports = [accepted.getsockname()[1], client.getsockname()[1]]
    ours, theirs = socket.socketpair()
    with ours:
        command = [
            "unshare",
            "--net",
            sys.executable,
            "-c",
            _ELSEWHERE,
            *map(str, ports),
            str(theirs.fileno()),
        ]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[theirs.fileno()])
        theirs.close()
        try:
            ours.settimeout(60)
            _, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(4))
            [(_, _, data)] = ancillary
            with socket.socket(fileno=array.array("i", data)[0]) as elsewhere:
                assert elsewhere.getpeername() == accepted.getpeername()
                with pytest.raises(ValueError, match="not of this network namespace"):
                    peer_uid(elsewhere)
        finally:
            child.communicate(timeout=60)
    assert peer_uid(accepted) == UID


def test_an_answer_is_parsed() -> None:
    assert read(ANSWER, NEAR, FAR, sequence=1) == (sock_diag.ESTABLISHED, 1002, 9235804)


def altered(at: int, *new: int) -> bytes:
    return ANSWER[:at] + bytes(new) + ANSWER[at + len(new) :]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "cut off"),
        (ANSWER[:15], "cut off"),
        (ANSWER[:80], "another question"),
        (altered(0, 80), "no socket"),
        (altered(0, 3, 0, 0, 0), "no socket"),
        (altered(4, 3), "no socket"),
        (altered(8, 2), "another question"),
        (altered(16, socket.AF_UNIX), "another family"),
        (altered(16, socket.AF_INET6), "these ends"),
        (altered(20, 0x9C, 0x41), "these ends"),
        (altered(22, 0x40, 0x3C), "these ends"),
        (altered(27, 2), "these ends"),
        (altered(43, 2), "these ends"),
        (struct.pack("=IHHIIi", 20, 2, 0, 1, 0, 0), "no socket"),
        (struct.pack("=IHHIIi", 20, 2, 0, 1, 0, -(2**31)), "no socket"),
        (struct.pack("=IHHII", 16, 2, 0, 1, 0), "no socket"),
    ],
)
def test_an_answer_to_another_request_is_rejected(data: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read(data, NEAR, FAR, sequence=1)


@pytest.mark.parametrize("error", [1, 2, 13])
def test_an_error_of_the_kernel_keeps_its_number(error: int) -> None:
    with pytest.raises(OSError, match=r"\w") as caught:
        read(struct.pack("=IHHIIi", 36, 2, 0, 1, 0, -error) + bytes(16), NEAR, FAR, sequence=1)
    assert caught.value.errno == error


@given(st.binary(max_size=200) | st.builds(lambda tail: ANSWER[:16] + tail, st.binary(max_size=120)))
def test_any_bytes_are_parsed_as_an_answer_or_rejected(data: bytes) -> None:
    try:
        found = read(data, NEAR, FAR, sequence=1)
    except (ValueError, OSError):
        return
    assert data[20:24] == ANSWER[20:24], "the ports that were asked for"
    assert 0 <= found.uid < 2**32


@given(
    st.lists(st.tuples(st.integers(0, len(ANSWER) - 1), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_a_changed_answer_still_has_our_ends_or_is_refused(changes: list[tuple[int, int]]) -> None:
    changed = bytearray(ANSWER)
    for at, new in changes:
        changed[at] = new
    data = bytes(changed)
    try:
        read(data, NEAR, FAR, sequence=1)
    except (ValueError, OSError):
        return
    assert (data[4:6], data[8:12]) == (ANSWER[4:6], ANSWER[8:12])
    assert data[20:28] == ANSWER[20:28], "ports, and the near address"


@given(
    st.ip_addresses().map(str), st.ip_addresses(v=4).map(str), st.integers(0, 65535), st.integers(0, 65535)
)
def test_a_request_asks_for_one_socket_by_its_ports(first: str, second: str, near: int, far: int) -> None:
    data = question(End.of((first, near)), End.of((second, far)), sequence=5)
    length, kind, flags, sequence, _ = struct.unpack_from("=IHHII", data)
    assert (length, kind, flags, sequence) == (len(data), 20, 1, 5), "no NLM_F_DUMP: one socket, not all"
    assert struct.unpack_from("!HH", data, 24) == (near, far)


def test_a_socket_that_is_not_connected_is_an_error() -> None:
    with socket.socket() as alone:
        alone.bind(("127.0.0.1", 0))
        with pytest.raises(OSError, match="not connected"):
            peer_uid(alone)
