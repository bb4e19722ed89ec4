"""Both openers on a stream of packets: whole, cut, padded wrongly, of any length, altered, or not packets at
all.

Whatever arrives leads to a payload that is exactly what was sealed, to "need more", or to the one
ProtocolError after which the link ends; nothing is opened after it.
"""

from __future__ import annotations

from asyncssh.encryption import ChachaEncryption
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from proxy.ssh.native.wire.chacha import ChachaOpener
from proxy.ssh.native.wire.errors import ProtocolError
from proxy.ssh.native.wire.packets import HEADER, TAG, Opened, Opener
from tests.fuzz.choices import Choices

LARGEST = 4096
"""Bytes of a packet: small, so that the limit is met often."""


class Peer:
    """Seals what no honest sender would: `body` is padding_length, payload and padding as it stands."""

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
        """Whether a packet of `body` is to be opened: RFC 4253 6 with the cipher's block."""
        block = 8 if self._is_chacha else 16
        return block <= len(body) <= LARGEST and len(body) % block == 0 and 4 <= body[0] <= len(body) - 2

    def seal(self, length: bytes, body: bytes) -> bytes:
        """A packet with a tag that is right."""
        count, self._count = self._count, self._count + 1
        if self._is_chacha:
            return b"".join(self._chacha.encrypt_packet(count, length, body))
        return length + self._gcm.encrypt(count.to_bytes(12), body, length)


def run(data: bytes) -> None:
    """One input. Raises whatever is not allowed to happen."""
    choices = Choices(data)
    peer = Peer(is_chacha=choices.flag())
    stream, bodies, honest = bytearray(), list[bytes](), True
    """What arrives; what was sealed; and whether all of it so far was."""
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
