"""One direction's keys, and what seals or opens packets with them."""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from proxy.ssh.native.wire import chacha
from proxy.ssh.native.wire.chacha import ChachaOpener, ChachaSealer
from proxy.ssh.native.wire.packets import Opener, Sealer

_chacha_nonce = Struct(">Q")


class Keys(NamedTuple):
    """Of a key exchange, as the first packet under them finds them."""

    key: bytes
    """16 or 32 bytes for AES-GCM, 64 for chacha20-poly1305: nothing else is told apart by its length."""
    nonce: bytes = b""
    """AES-GCM: 12 bytes. It comes out of the key exchange; the other cipher counts by sequence number."""
    sequence: int = 0
    """Of that packet (RFC 4253 6.4): it goes on across key exchanges, and starts again with each under strict
    key exchange.
    """

    def sealer(self) -> Sealer | ChachaSealer:
        """For our direction."""
        if len(self.key) == chacha.KEY:
            return ChachaSealer(self.key, _chacha_nonce.pack(self.sequence))
        return Sealer(self.key, self.nonce, self.sequence)

    def opener(self, *, largest: int) -> Opener | ChachaOpener:
        """For the peer's; `largest` is the biggest packet_length that is accepted, in bytes."""
        if len(self.key) == chacha.KEY:
            return ChachaOpener(self.key, _chacha_nonce.pack(self.sequence), largest=largest)
        return Opener(self.key, self.nonce, self.sequence, largest=largest)
