"""Which user of this machine is at the other end of a loopback TCP connection: sock_diag(7).

We ask the kernel for one socket by its two ends, never for a list of all sockets. The kernel answers before
the `send` of the question returns, so this needs neither a thread nor a deadline.

An answer counts only if it cannot mean another socket:

* If no socket has these two ends, the kernel answers with a socket that listens at the first of them. So we
  compare the ends in the answer.
* If the program has closed its socket, the answer has uid 0 and inode 0: a client that sends and closes would
  count as root. So only a socket counts that is established and has an inode.
* The kernel looks in one network namespace, and an inherited listener may belong to another. So we also ask
  for our own end, which must be this very socket. We ask that second: as long as our end exists, no other
  connection can have the same two ends.
"""

from __future__ import annotations

import os
import socket
from struct import Struct
from typing import Final, NamedTuple

_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLMSG_ERROR: Final = 2
_NLM_F_REQUEST: Final = 1
ESTABLISHED: Final = 1
"""TCP_ESTABLISHED of linux/tcp.h."""

_HEADER: Final = Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence, port."""
_REQUEST: Final = Struct("=BBBxI2s2s16s16sIQ")
"""struct inet_diag_req_v2: family, protocol, extensions, states; ports, addresses, interface, cookie."""
_ANSWER: Final = Struct("=BBxx2s2s16s16s4x8x12xII")
"""struct inet_diag_msg: family, state; ports, addresses; uid, inode."""
_ERROR: Final = Struct("=i")

_LOOPBACK_4: Final = 127
_LOOPBACK_6: Final = bytes([*[0] * 15, 1])
_MAPPED: Final = bytes([*[0] * 10, 0xFF, 0xFF])
"""The prefix with which an IPv6 socket shows an IPv4 address (RFC 4291 2.5.5.2)."""

_ALL_STATES: Final = 0xFFFFFFFF
_ANY_INTERFACE: Final = 0
_NO_COOKIE: Final = 0xFFFFFFFFFFFFFFFF
_MOST_BYTES: Final = 8192
_MAX_ERRNO: Final = 4096


class End(NamedTuple):
    """One end of a connection. `::ffff:127.0.0.1` is stored as the IPv4 address that it stands for."""

    address: bytes
    """The address: four or sixteen bytes, in network order."""
    port: int

    @classmethod
    def of(cls, sockaddr: tuple[str, int] | tuple[str, int, int, int]) -> End:
        """Make it of what `getsockname` and `getpeername` return for TCP."""
        host, _, _ = sockaddr[0].partition("%")  # an interface
        address = socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
        return cls(_plain(address), sockaddr[1])

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine has this address: 127.0.0.0/8, ::1."""
        return self.address == _LOOPBACK_6 or (len(self.address) == 4 and self.address[0] == _LOOPBACK_4)


class Found(NamedTuple):
    """The kernel's answer about a socket."""

    state: int
    uid: int
    inode: int


def peer_uid(sock: socket.socket) -> int:
    """The uid of the process that opened the other end of `sock`, a connection over loopback.

    Raises OSError or ValueError, which say why it is not known. uid 0 is root.
    """
    ours, theirs = End.of(sock.getsockname()), End.of(sock.getpeername())
    if not theirs.is_loopback:
        raise ValueError("the client does not come over loopback")
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, _NETLINK_SOCK_DIAG
    ) as kernel:
        kernel.connect((0, 0))  # only the kernel may answer
        client = _ask(kernel, theirs, ours, sequence=1)
        own = _ask(kernel, ours, theirs, sequence=2)
    if own.inode != os.fstat(sock.fileno()).st_ino:
        raise ValueError("the connection is not of this network namespace")
    return owner(client)


def owner(client: Found) -> int:
    """The uid of a client's socket. Raises ValueError if its program has closed it: then uid 0 is
    not root.
    """
    if client.state != ESTABLISHED or not client.inode:
        raise ValueError("the client has closed its socket")
    return client.uid


def _ask(kernel: socket.socket, near: End, far: End, *, sequence: int) -> Found:
    kernel.send(question(near, far, sequence=sequence))
    return read(kernel.recv(_MOST_BYTES), near, far, sequence=sequence)


def question(near: End, far: End, *, sequence: int) -> bytes:
    """A request for the TCP socket whose own address is `near` and that is connected to `far`."""
    body = _REQUEST.pack(
        socket.AF_INET if len(near.address) == 4 else socket.AF_INET6,
        socket.IPPROTO_TCP,
        0,
        _ALL_STATES,
        near.port.to_bytes(2),
        far.port.to_bytes(2),
        near.address,
        far.address,
        _ANY_INTERFACE,
        _NO_COOKIE,
    )
    head = _HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, sequence, 0)
    return head + body


def read(data: bytes, near: End, far: End, *, sequence: int) -> Found:
    """Parse the kernel's answer to `question`. Raises OSError if the kernel refuses, ValueError for other
    bytes.
    """
    if len(data) < _HEADER.size:
        raise ValueError("the kernel's answer is cut off")
    length, kind, _, number, _ = _HEADER.unpack_from(data)
    body = data[_HEADER.size : length]
    if number != sequence or length > len(data):
        raise ValueError("the kernel's answer is to another question")
    if kind == _NLMSG_ERROR and len(body) >= _ERROR.size:
        error = -_ERROR.unpack_from(body)[0]
        if 0 < error < _MAX_ERRNO:
            raise OSError(error, os.strerror(error))
    if kind != _SOCK_DIAG_BY_FAMILY or len(body) < _ANSWER.size:
        raise ValueError("the kernel's answer has no socket")
    family, state, near_port, far_port, near_address, far_address, uid, inode = _ANSWER.unpack_from(body)
    ends = (
        End(_unpacked(family, near_address), int.from_bytes(near_port)),
        End(_unpacked(family, far_address), int.from_bytes(far_port)),
    )
    if ends != (near, far):
        raise ValueError("the kernel knows no socket with these ends")
    return Found(state, uid, inode)


def _unpacked(family: int, data: bytes) -> bytes:
    if family == socket.AF_INET:
        return data[:4]
    if family == socket.AF_INET6:
        return _plain(data)
    raise ValueError("the kernel's answer is of another family")


def _plain(address: bytes) -> bytes:
    return address.removeprefix(_MAPPED)
