"""Both openers on a stream of packets that may be complete, cut, padded wrongly, altered, of any length, or
not packets at all.

The result must be exactly the sealed payload, "more bytes needed", or one ProtocolError, which ends the link;
nothing may be opened after it.
"""

from __future__ import annotations

from asyncssh.encryption import ChachaEncryption
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from proxy.ssh.native.wire.chacha import ChachaOpener
from proxy.ssh.native.wire.errors import ProtocolError
from proxy.ssh.native.wire.packets import HEADER, TAG, Opened, Opener
from tests.fuzz.choices import Choices

LARGEST = 4096
"""The longest packet in bytes; small, so that inputs often reach the limit."""


class Peer:
    """Seals also invalid packets: `body` is padding_length, payload and padding, and is used unchanged."""

    def __init__(self, *, is_chacha: bool) -> None:
        self._gcm = AESGCM(bytes(16))
        self._chacha = ChachaEncryption.new("chacha20-poly1305", bytes(64), b"")
        self._is_chacha = is_chacha
        self._count = 0
        self.opener = (
            ChachaOpener(bytes(64), bytes(8), largest=LARGEST)
            if is_chacha
            else Opener(bytes(16), bytes(12), largest=LARGEST)
        )

    def is_sound(self, body: bytes) -> bool:
        """Whether a packet with this body is valid by RFC 4253 6 and the cipher's block size."""
        block = 8 if self._is_chacha else 16
        return block <= len(body) <= LARGEST and len(body) % block == 0 and 4 <= body[0] <= len(body) - 2

    def seal(self, length: bytes, body: bytes) -> bytes:
        """A packet with a valid tag."""
        count, self._count = self._count, self._count + 1
        if self._is_chacha:
            return b"".join(self._chacha.encrypt_packet(count, length, body))
        return length + self._gcm.encrypt(count.to_bytes(12), body, length)


def run(data: bytes) -> None:
    """Run one input. Raises if a rule is broken."""
    choices = Choices(data)
    peer = Peer(is_chacha=choices.flag())
    stream, bodies, honest = bytearray(), list[bytes](), True
    """The bytes that arrive, the sealed bodies, and whether all bytes so far are sealed packets."""
    while not choices.is_over and len(stream) < 4 * LARGEST:
        body = choices.content(choices.size(LARGEST + 64))
        kind = choices.below(8)
        if kind == 0:
            stream += body
            honest = False
        elif kind == 1:
            stream += peer.seal(choices.uint32().to_bytes(4), body)
            honest = False
        else:
            packet = bytearray(peer.seal(len(body).to_bytes(4), body))
            if kind == 2:
                packet[choices.below(256) % len(packet)] ^= 1 << choices.below(8)
                honest = False
            stream += packet
            if honest:
                bodies.append(body)
    _receive(peer, choices, stream, bodies)


def _receive(peer: Peer, choices: Choices, stream: bytearray, bodies: list[bytes]) -> None:
    buffer, start, end, found = memoryview(stream), 0, 0, 0
    while end < len(stream):
        end = min(len(stream), end + 1 + choices.size(LARGEST))
        while True:
            try:
                opened = peer.opener.open(buffer, start, end)
            except ProtocolError:
                assert found == len(bodies) or not peer.is_sound(bodies[found])
                return
            if opened is None:
                break
            if found < len(bodies):
                _check(buffer, opened, start, bodies[found])
                found += 1
            start = opened[2]
    assert found == len(bodies), "a packet that has arrived whole was neither opened nor refused"


def _check(buffer: memoryview, opened: Opened, start: int, body: bytes) -> None:
    first, last, following = opened
    assert first == start + HEADER
    assert first < last <= following - TAG <= len(buffer)
    assert buffer[first:last] == body[1 : len(body) - body[0]]
