"""chacha20-poly1305 of asyncssh with two cipher contexts for each direction.

asyncssh 2.24 makes three new contexts for each packet: 17 us, while a packet of a login takes 30 us without
them. A context can be used again with another nonce. After the login, `proxy.ssh.native` carries the packets.
"""

from __future__ import annotations

from typing import Any, Final, cast

from asyncssh.crypto.chacha import ChachaCipher
from asyncssh.encryption import ChachaEncryption
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.poly1305 import Poly1305

from proxy.ssh.internals.parts import Connection

_COUNTER: Final = bytes(8)
_BLOCK: Final = bytes(64)
"""ChaCha20 turns it into the first block of the key stream. The data is encrypted from the second one on."""
_POLY_KEY: Final = 32


class KeptChacha(ChachaCipher):
    """Stands for an asyncssh cipher. See OpenSSH's PROTOCOL.chacha20poly1305."""

    def __init__(self, key: bytes) -> None:
        super().__init__(key)
        self._body = _context(key[: len(key) // 2])
        self._head = _context(key[len(key) // 2 :])

    def encrypt_and_sign(self, header: bytes, data: bytes, nonce: bytes) -> tuple[bytes, bytes]:
        """Seal a packet: returns its sealed length and body, and its tag."""
        poly = self._begin(nonce)
        sealed = self.decrypt_header(header, nonce) + self._body.update(data)
        return sealed, Poly1305.generate_tag(poly, sealed)

    def decrypt_header(self, header: bytes, nonce: bytes) -> bytes:
        """Open the length of a packet, or seal it: ChaCha20 is its own inverse."""
        self._head.reset_nonce(_COUNTER + nonce)
        return self._head.update(header)

    def verify_and_decrypt(self, header: bytes, data: bytes, nonce: bytes, tag: bytes) -> bytes | None:
        """Open the body of a packet; None if its tag is wrong."""
        poly = self._begin(nonce)
        try:
            Poly1305.verify_tag(poly, header + data, tag)
        except InvalidSignature:
            return None
        return self._body.update(data)

    def _begin(self, nonce: bytes) -> bytes:
        """Returns the key of Poly1305 for this packet."""
        self._body.reset_nonce(_COUNTER + nonce)
        return self._body.update(_BLOCK)[:_POLY_KEY]


def _context(key: bytes) -> CipherContext:
    return Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()


def keep_contexts(conn: Connection) -> None:
    """Keep the contexts of the keys that a key exchange has just produced."""
    inner = cast("Any", conn)
    for encryption in (inner._send_encryption, inner._next_recv_encryption):
        if isinstance(encryption, ChachaEncryption):
            cipher = cast("Any", encryption)._cipher
            setattr(encryption, "_cipher", KeptChacha(cipher._key + cipher._adkey))  # noqa: B010 - private
