"""The messages of RFC 4254 5 that a forwarded connection needs, as plain functions on buffers.

A message is the payload of a packet. Each `parse_*` gets the payload as a memoryview, and raises
ProtocolError if it is not exactly one message.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from struct import Struct
from typing import Final, NamedTuple

from proxy.ssh.native.wire.errors import ProtocolError

IGNORE: Final = 2
SERVICE_REQUEST: Final = 5
KEXINIT: Final = 20
NEWKEYS: Final = 21
FIRST: Final = 80
"""The connection protocol's messages begin here (RFC 4250 4.1.2). A key exchange delays all of them."""
RESPONSES: Final = (81, 82)
"""REQUEST_SUCCESS and REQUEST_FAILURE: the answers to global requests."""
OPEN: Final = 90
OPEN_CONFIRMATION: Final = 91
OPEN_FAILURE: Final = 92
WINDOW_ADJUST: Final = 93
DATA: Final = 94
EXTENDED_DATA: Final = 95
EOF: Final = 96
CLOSE: Final = 97
REQUEST: Final = 98
FAILURE: Final = 100

PROHIBITED: Final = 1
CONNECT_FAILED: Final = 2
UNKNOWN_TYPE: Final = 3
SHORTAGE: Final = 4
"""The reason codes of OPEN_FAILURE (RFC 4254 5.1)."""

DIRECT: Final = b"direct-tcpip"
FORWARDED: Final = b"forwarded-tcpip"
"""Types of channels (RFC 4254 7.2): a client opens the first, a server the second."""

BIGGEST_WINDOW: Final = (1 << 32) - 1

DATA_HEADER: Final = 9
"""Bytes before the data: message type, recipient channel, length."""

_recipient = Struct(">BI")
_with_number = Struct(">BII")
_confirmation = Struct(">BIIII")
_failure = Struct(">BIII")
_open = Struct(">III")
_open_and_length = Struct(">IIII")
_port_and_length = Struct(">II")
_uint32 = Struct(">I")


def put_data_header(buffer: memoryview, at: int, recipient: int, size: int) -> None:
    """Write the header of a DATA message at `at`; its `size` bytes of data follow at `at + DATA_HEADER`."""
    _with_number.pack_into(buffer, at, DATA, recipient, size)


def window_adjust(recipient: int, credit: int) -> bytes:
    """A message that lets the peer send `credit` bytes more."""
    return _with_number.pack(WINDOW_ADJUST, recipient, credit)


def eof(recipient: int) -> bytes:
    """A message that ends our data."""
    return _recipient.pack(EOF, recipient)


def close(recipient: int) -> bytes:
    """A message that ends the channel on our side: no message of ours may follow."""
    return _recipient.pack(CLOSE, recipient)


def failure(recipient: int) -> bytes:
    """A message that refuses a channel request."""
    return _recipient.pack(FAILURE, recipient)


def open_tcpip(
    kind: bytes, sender: int, window: int, largest: int, target: tuple[str, int], origin: tuple[str, int]
) -> bytes:
    """A message that asks the peer for a channel to `target` for `origin` (RFC 4254 7.2).

    `kind` is DIRECT to an SSH server; FORWARDED to a client, whose `target` is what it has registered.
    `target` and `origin` are host and port each. A DATA message to us may carry up to `largest` bytes.
    """
    host, origin_host = target[0].encode(), origin[0].encode()
    return b"".join(
        (
            _beginning(kind),
            _open_and_length.pack(sender, window, largest, len(host)),
            host,
            _port_and_length.pack(target[1], len(origin_host)),
            origin_host,
            _uint32.pack(origin[1]),
        )
    )


def open_confirmation(recipient: int, sender: int, window: int, largest: int) -> bytes:
    """A message that opens a channel for the peer: `recipient` is its number, `sender` is ours."""
    return _confirmation.pack(OPEN_CONFIRMATION, recipient, sender, window, largest)


def open_failure(recipient: int, code: int, text: str) -> bytes:
    """A message that refuses to open a channel, for a reason `code` of RFC 4254 5.1."""
    return b"".join(
        (_with_number.pack(OPEN_FAILURE, recipient, code), _string(text.encode()), _string(b"en"))
    )


@lru_cache(maxsize=2)
def _beginning(kind: bytes) -> bytes:
    return bytes((OPEN,)) + _string(kind)


def _string(text: bytes) -> bytes:
    return _uint32.pack(len(text)) + text


def recipient(message: memoryview) -> int:
    """Our number of the channel that a message is for."""
    number: int
    try:
        _, number = _recipient.unpack_from(message)
    except struct.error:
        raise ProtocolError(f"a channel message of {len(message)} bytes") from None
    return number


class Open(NamedTuple):
    """What the peer asks for: a type of channel, and its side of it, as in `Confirmation`."""

    kind: bytes
    sender: int
    window: int
    largest: int
    rest: bytes
    """What the type adds (`parse_tcpip`)."""


def parse_open(message: memoryview) -> Open:
    """The contents of an OPEN."""
    kind, at = _text(message, 1)
    if len(message) - at < _open.size:
        raise ProtocolError("an OPEN that is cut off")
    sender, window, largest = _open.unpack_from(message, at)
    if not largest:
        raise ProtocolError("the peer opens a channel for packets of 0 bytes")
    return Open(kind, sender, window, largest, bytes(message[at + _open.size :]))


def parse_tcpip(rest: bytes) -> tuple[tuple[bytes, int], tuple[bytes, int]]:
    """Where a channel of type DIRECT or FORWARDED leads, and who it is for: a host and a port each.

    Nothing is checked but the layout: a host may be anything, and a port up to 2**32 - 1.
    """
    message = memoryview(rest)
    ends = []
    at = 0
    for _ in range(2):
        host, at = _text(message, at)
        if len(message) - at < _uint32.size:
            raise ProtocolError("an OPEN that is cut off")
        ends.append((host, int(_uint32.unpack_from(message, at)[0])))
        at += _uint32.size
    if at != len(message):
        raise ProtocolError("an OPEN that is longer than it says")
    return ends[0], ends[1]


def _text(message: memoryview, at: int) -> tuple[bytes, int]:
    """The string at `at`, and where it ends."""
    start = at + _uint32.size
    if len(message) < start:
        raise ProtocolError("an OPEN that is cut off")
    (length,) = _uint32.unpack_from(message, at)
    if length > len(message) - start:
        raise ProtocolError("an OPEN that is cut off")
    return bytes(message[start : start + length]), start + int(length)


class Confirmation(NamedTuple):
    """The peer's side of a channel: its number, the window, and the largest DATA (both in bytes)."""

    sender: int
    window: int
    largest: int


def parse_confirmation(message: memoryview) -> Confirmation:
    """The contents of an OPEN_CONFIRMATION."""
    _check(message, _confirmation, "OPEN_CONFIRMATION")
    _, _, sender, window, largest = _confirmation.unpack(message)
    if not largest:
        raise ProtocolError("the peer opens a channel for packets of 0 bytes")
    return Confirmation(sender, window, largest)


def parse_failure(message: memoryview) -> tuple[int, str]:
    """The contents of an OPEN_FAILURE: the reason code, and the peer's text.

    The text is cut to 200 characters; those that are not printable become `?`.
    """
    if len(message) < _failure.size:
        raise ProtocolError(f"an OPEN_FAILURE of {len(message)} bytes")
    _, _, code, length = _failure.unpack_from(message)
    if length > len(message) - _failure.size:
        raise ProtocolError("an OPEN_FAILURE shorter than it says")
    words = bytes(message[_failure.size : _failure.size + length]).decode(errors="replace")
    return code, "".join(letter if letter.isprintable() else "?" for letter in words[:200])


def parse_data(message: memoryview) -> tuple[int, memoryview]:
    """The channel that a DATA message is for, and the data, which is not copied."""
    if len(message) >= DATA_HEADER:
        _, number, size = _with_number.unpack_from(message)
        if size == len(message) - DATA_HEADER:
            return number, message[DATA_HEADER:]
    raise ProtocolError("a DATA message of another length than it says")


def parse_window_adjust(message: memoryview) -> int:
    """The credit that a WINDOW_ADJUST grants us, in bytes."""
    _check(message, _with_number, "WINDOW_ADJUST")
    return int(_with_number.unpack(message)[2])


def parse_bare(message: memoryview) -> None:
    """Check an EOF or CLOSE: it contains only the channel number."""
    _check(message, _recipient, "EOF or CLOSE")


def parse_request(message: memoryview) -> bool:
    """Whether a channel request wants a reply. Its type does not matter: kubemux refuses all of them."""
    at = _recipient.size + 4
    if len(message) < at:
        raise ProtocolError("a REQUEST that is cut off")
    (length,) = _uint32.unpack_from(message, at - 4)
    if len(message) <= at + length:
        raise ProtocolError("a REQUEST that is cut off")
    return bool(message[at + length])


def unexpected(kind: int) -> ProtocolError:
    """The error for a message of a type that is not allowed on a forwarded connection."""
    return ProtocolError(f"the peer sent a message of type {kind}, which a forwarded connection never has")


def check(kind: int, message: memoryview) -> None:
    """Check a message for a channel that is closed already: it has no effect, but it must be well formed.

    Raises ProtocolError for a message of an unknown type, or of a wrong length.
    """
    if kind == WINDOW_ADJUST:
        parse_window_adjust(message)
    elif kind in {EOF, CLOSE}:
        parse_bare(message)
    elif kind == REQUEST:
        parse_request(message)
    else:
        raise unexpected(kind)


def _check(message: memoryview, layout: Struct, name: str) -> None:
    if len(message) != layout.size:
        raise ProtocolError(f"{name} of {len(message)} bytes instead of {layout.size}")
