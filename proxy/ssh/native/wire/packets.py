"""SSH binary packets (RFC 4253 6) under AES-GCM, in place.

RFC 5647 defines them; we follow OpenSSH, which differs from it (PROTOCOL, 1.6):

    start              +4        +5                                                   end
    | packet_length 4 | padding_length 1 | payload | padding 4..19 | tag 16 |
    '- sent in clear -'------------ encrypted, a multiple of 16 ---'

The length is the associated data. The nonce comes with the keys: 4 fixed bytes, and a counter of 8 bytes that
goes up by one with each packet. The cipher does not use sequence numbers; we derive them from the counter.

There is one AEAD object for as long as the keys are used: making one costs as much as sealing 16 KiB.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from proxy.ssh.native.wire.errors import ProtocolError

HEADER: Final = 5
"""Bytes before the payload."""
TAG: Final = 16
PADDING: Final = 19
"""The most bytes of padding."""
OVERHEAD: Final = HEADER + PADDING + TAG
"""The maximum number of bytes by which a packet is longer than its payload."""

_BLOCK: Final = 16
_LEAST_PADDING: Final = 4
# Zeros: RFC 4253 6 asks for random padding to hide repeated plaintext. AES-GCM hides it anyway.
_PADDING: Final = tuple(bytes(size) for size in range(_BLOCK + _LEAST_PADDING))
_NONCE: Final = 12
_COUNTER_AT: Final = 4
_COUNTERS: Final = 1 << 64
_SEQUENCES: Final = 1 << 32

_length = Struct(">I")
_counter = Struct(">Q")


class _Keyed:
    """The AEAD object and the nonce of one direction."""

    __slots__ = ("_aead", "_ahead", "_count", "_nonce")

    def __init__(self, key: bytes, nonce: bytes, sequence: int = 0) -> None:
        """`key` has 16 or 32 bytes. `nonce` (12 bytes) and `sequence` are those of the next packet."""
        self._aead = AESGCM(key)
        self._nonce = bytearray(nonce)
        self._count: int = _counter.unpack_from(nonce, _COUNTER_AT)[0]
        self._ahead: int = sequence - self._count

    @property
    def sequence(self) -> int:
        """Sequence number of the next packet. Only the next keys need it.

        It is computed from the counter in the nonce.
        """
        return (self._count + self._ahead) % _SEQUENCES


class Sealer(_Keyed):
    """Seals the packets that we send."""

    def seal(self, buffer: memoryview, start: int, size: int) -> int:
        """Make a packet at `start` from the `size` bytes of payload at `start + HEADER`. Returns its end.

        The buffer must have room for `size + OVERHEAD` bytes from `start` on.
        """
        return self.seal_from(buffer, start + HEADER, size, buffer, start)

    def seal_from(self, source: memoryview, at: int, size: int, buffer: memoryview, start: int) -> int:
        """Make a packet at `start` of `buffer` from the payload at `at` of `source`. Returns its end.

        It costs no more than sealing in place. It overwrites the byte before the payload, and up to PADDING
        bytes after it.
        """
        padding = _LEAST_PADDING + (-1 - size - _LEAST_PADDING) % _BLOCK
        behind = at + size
        source[at - 1] = padding
        source[behind : behind + padding] = _PADDING[padding]
        body = start + 4
        end = body + 1 + size + padding + TAG
        _length.pack_into(buffer, start, 1 + size + padding)
        self._aead.encrypt_into(
            self._nonce, source[at - 1 : behind + padding], buffer[start:body], buffer[body:end]
        )
        self._count = count = (self._count + 1) % _COUNTERS
        _counter.pack_into(self._nonce, _COUNTER_AT, count)
        return end


Opened = tuple[int, int, int]
"""Start and end of an opened packet's payload in the buffer, and the start of the next packet."""


class Opener(_Keyed):
    """Opens the packets that the peer sends."""

    __slots__ = ("_largest",)

    def __init__(self, key: bytes, nonce: bytes, sequence: int = 0, *, largest: int) -> None:
        """`largest` is the largest packet_length in bytes that is accepted."""
        super().__init__(key, nonce, sequence)
        self._largest = largest

    def open(self, buffer: memoryview, start: int, end: int) -> Opened | None:
        """Decrypt the packet at `start` in place; None if it has not arrived in full (up to `end`).

        Raises ProtocolError; for an impossible length it does so as soon as the length has arrived.
        """
        if end - start < 4:
            return None
        (length,) = _length.unpack_from(buffer, start)
        if length < _BLOCK or length % _BLOCK or length > self._largest:
            raise ProtocolError(
                f"a packet of {length} bytes: not a multiple of {_BLOCK} up to {self._largest}"
            )
        body = start + 4
        last = body + length
        if end < last + TAG:
            return None
        try:
            self._aead.decrypt_into(
                self._nonce, buffer[body : last + TAG], buffer[start:body], buffer[body:last]
            )
        except InvalidTag:
            raise ProtocolError("a packet was altered on its way: its tag does not match") from None
        self._count = count = (self._count + 1) % _COUNTERS
        _counter.pack_into(self._nonce, _COUNTER_AT, count)
        padding = buffer[body]
        if not _LEAST_PADDING <= padding <= length - 2:
            raise ProtocolError(f"a packet of {length} bytes with {padding} bytes of padding")
        return start + HEADER, last - padding, last + TAG
