"""The keys of one direction, and the sealer or opener that uses them."""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from proxy.ssh.native.wire import chacha
from proxy.ssh.native.wire.chacha import ChachaOpener, ChachaSealer
from proxy.ssh.native.wire.packets import Opener, Sealer

_chacha_nonce = Struct(">Q")


class Keys(NamedTuple):
    """The keys of one direction, as a key exchange has produced them."""

    key: bytes
    """16 or 32 bytes for AES-GCM, 64 for chacha20-poly1305. The length shows the cipher."""
    nonce: bytes = b""
    """AES-GCM: 12 bytes from the key exchange. Empty for chacha20-poly1305: it uses the sequence number."""
    sequence: int = 0
    """Sequence number of the first packet under these keys (RFC 4253 6.4).

    It continues across key exchanges; under strict key exchange it starts again at 0.
    """

    def sealer(self) -> Sealer | ChachaSealer:
        """A new sealer for the packets that we send."""
        if len(self.key) == chacha.KEY:
            return ChachaSealer(self.key, _chacha_nonce.pack(self.sequence))
        return Sealer(self.key, self.nonce, self.sequence)

    def opener(self, *, largest: int) -> Opener | ChachaOpener:
        """A new opener for the packets of the peer. It accepts a packet_length of up to `largest` bytes."""
        if len(self.key) == chacha.KEY:
            return ChachaOpener(self.key, _chacha_nonce.pack(self.sequence), largest=largest)
        return Opener(self.key, self.nonce, self.sequence, largest=largest)
