"""The messages of RFC 4254 5 that a forwarded connection needs, as plain functions on buffers.

A message is a packet's payload. `parse_*` take the payload as a memoryview and raise ProtocolError for
anything but a whole message with nothing after it.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from proxy.ssh.native.wire.errors import ProtocolError

KEXINIT: Final = 20
NEWKEYS: Final = 21
FIRST: Final = 80
"""Of the connection protocol (RFC 4250 4.1.2): none of them passes while keys are exchanged."""
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

CONNECT_FAILED: Final = 2
"""A reason code of OPEN_FAILURE (RFC 4254 5.1)."""

BIGGEST_WINDOW: Final = (1 << 32) - 1

DATA_HEADER: Final = 9
"""Bytes before the data: type, recipient channel, length."""

_recipient = Struct(">BI")
_with_number = Struct(">BII")
_confirmation = Struct(">BIIII")
_failure = Struct(">BIII")
_uint32 = Struct(">I")


def put_data_header(buffer: memoryview, at: int, recipient: int, size: int) -> None:
    """Write what goes before `size` bytes of data that stand at `at + DATA_HEADER`."""
    _with_number.pack_into(buffer, at, DATA, recipient, size)


def window_adjust(recipient: int, credit: int) -> bytes:
    """Let the peer send `credit` bytes more."""
    return _with_number.pack(WINDOW_ADJUST, recipient, credit)


def eof(recipient: int) -> bytes:
    """No more data from us."""
    return _recipient.pack(EOF, recipient)


def close(recipient: int) -> bytes:
    """Nothing more at all from us."""
    return _recipient.pack(CLOSE, recipient)


def failure(recipient: int) -> bytes:
    """No, to a channel request."""
    return _recipient.pack(FAILURE, recipient)


def open_direct_tcpip(
    sender: int, window: int, largest: int, target: tuple[str, int], origin: tuple[str, int]
) -> bytes:
    """Connect to `target` for `origin`, HOST and PORT each (RFC 4254 7.2); we take `largest` bytes of data in
    a packet.
    """
    return b"".join(
        (
            bytes((OPEN,)),
            _string(b"direct-tcpip"),
            _uint32.pack(sender),
            _uint32.pack(window),
            _uint32.pack(largest),
            _string(target[0].encode()),
            _uint32.pack(target[1]),
            _string(origin[0].encode()),
            _uint32.pack(origin[1]),
        )
    )


def _string(text: bytes) -> bytes:
    return _uint32.pack(len(text)) + text


def recipient(message: memoryview) -> int:
    """The channel that a message is for: one of our numbers."""
    if len(message) < _recipient.size:
        raise ProtocolError(f"a channel message of {len(message)} bytes")
    return int(_recipient.unpack_from(message)[1])


class Confirmation(NamedTuple):
    """The peer's side of a channel: its number, how much we may send, and how much in a packet (bytes)."""

    sender: int
    window: int
    largest: int


def parse_confirmation(message: memoryview) -> Confirmation:
    """The channel is open."""
    _check(message, _confirmation, "OPEN_CONFIRMATION")
    _, _, sender, window, largest = _confirmation.unpack(message)
    if not largest:
        raise ProtocolError("the peer opens a channel for packets of 0 bytes")
    return Confirmation(sender, window, largest)


def parse_failure(message: memoryview) -> tuple[int, str]:
    """Why the channel is not open: a reason code, and the peer's words in at most 200 printable
    characters.
    """
    if len(message) < _failure.size:
        raise ProtocolError(f"an OPEN_FAILURE of {len(message)} bytes")
    _, _, code, length = _failure.unpack_from(message)
    if length > len(message) - _failure.size:
        raise ProtocolError("an OPEN_FAILURE shorter than it says")
    words = bytes(message[_failure.size : _failure.size + length]).decode(errors="replace")
    return code, "".join(letter if letter.isprintable() else "?" for letter in words[:200])


def parse_data(message: memoryview) -> tuple[int, memoryview]:
    """The channel that DATA is for, and the data where it stands."""
    if len(message) >= DATA_HEADER:
        _, number, size = _with_number.unpack_from(message)
        if size == len(message) - DATA_HEADER:
            return number, message[DATA_HEADER:]
    raise ProtocolError("a DATA message of another length than it says")


def parse_window_adjust(message: memoryview) -> int:
    """Bytes that we may send more."""
    _check(message, _with_number, "WINDOW_ADJUST")
    return int(_with_number.unpack(message)[2])


def parse_bare(message: memoryview) -> None:
    """EOF and CLOSE carry nothing but the channel."""
    _check(message, _recipient, "EOF or CLOSE")


def parse_request(message: memoryview) -> bool:
    """Whether a channel request wants a reply: what it asks for does not matter, a forwarded connection
    grants none.
    """
    at = _recipient.size + 4
    if len(message) < at:
        raise ProtocolError("a REQUEST that is cut off")
    (length,) = _uint32.unpack_from(message, at - 4)
    if len(message) <= at + length:
        raise ProtocolError("a REQUEST that is cut off")
    return bool(message[at + length])


def unfit(kind: int) -> ProtocolError:
    """What a message of that type is here."""
    return ProtocolError(f"a message of type {kind} has no business on a forwarded connection")


def check(kind: int, message: memoryview) -> None:
    """A message for a channel that is closed says nothing any more, but it is whole, and one of those that
    there are.
    """
    if kind == WINDOW_ADJUST:
        parse_window_adjust(message)
    elif kind in {EOF, CLOSE}:
        parse_bare(message)
    elif kind == REQUEST:
        parse_request(message)
    else:
        raise unfit(kind)


def _check(message: memoryview, layout: Struct, name: str) -> None:
    if len(message) != layout.size:
        raise ProtocolError(f"{name} of {len(message)} bytes instead of {layout.size}")
