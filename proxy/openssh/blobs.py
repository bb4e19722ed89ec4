"""Reads public keys as SSH sends them (RFC 4253 6.6, RFC 5656 3.1, RFC 8709 4, PROTOCOL.u2f). Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from typing import Final

KINDS: Final[Mapping[str, int]] = {
    "ssh-ed25519": 1,
    "ecdsa-sha2-nistp256": 2,
    "ecdsa-sha2-nistp384": 2,
    "ecdsa-sha2-nistp521": 2,
    "ssh-rsa": 2,
    "sk-ssh-ed25519@openssh.com": 2,
    "sk-ecdsa-sha2-nistp256@openssh.com": 3,
}
"""The kinds of keys that we accept, each with the number of strings that follow its name. DSA is broken."""

CERTIFICATE: Final = "-cert-v01@openssh.com"

LEAST_RSA_BITS: Final = 2048
MOST_RSA_BITS: Final = 16384
"""OpenSSH's own limit (OPENSSL_RSA_MAX_MODULUS_BITS). A signature of such a key takes 3 ms to check."""

_ED25519_BYTES: Final = 32


class Reader:
    """Takes one field after the other from a message (RFC 4251 5). At its end, they raise ValueError."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        """Whether bytes are left."""
        return self._at < len(self._data)

    def number(self, nbytes: int) -> int:
        return int.from_bytes(self._take(nbytes))

    def string(self) -> bytes:
        return self._take(self.number(4))

    def end(self) -> None:
        """Raise ValueError if bytes are left."""
        if self:
            raise ValueError("it is longer than it should be")

    def _take(self, nbytes: int) -> bytes:
        end = self._at + nbytes
        if end > len(self._data):
            raise ValueError("it is cut off")
        taken, self._at = self._data[self._at : end], end
        return taken


def check(blob: bytes) -> str:
    """The kind of the public key `blob`. Raises ValueError, which says why the key is not accepted."""
    reader = Reader(blob)
    kind = reader.string().decode("ascii", "replace")
    if kind.endswith(CERTIFICATE):
        raise ValueError("it is a certificate, not a key")
    if kind not in KINDS:
        raise ValueError("keys of its kind are not accepted")
    check_fields(kind, [reader.string() for _ in range(KINDS[kind])])
    reader.end()
    return kind


def check_fields(kind: str, fields: list[bytes]) -> None:
    """Raise ValueError if these are not the fields of a key of this kind, or of one that is too weak."""
    if "ed25519" in kind and len(fields[0]) != _ED25519_BYTES:
        raise ValueError("it is no key of its kind")
    if "ecdsa" in kind and fields[0].decode("ascii", "replace") not in kind:
        raise ValueError("it is no key of its kind")
    if kind == "ssh-rsa":
        bits = int.from_bytes(fields[1]).bit_length()
        if not LEAST_RSA_BITS <= bits <= MOST_RSA_BITS:
            raise ValueError(f"it has {bits} bits, and {LEAST_RSA_BITS} to {MOST_RSA_BITS} are accepted")


def from_text(kind: str, encoded: str) -> bytes:
    """The key in `KIND BASE64`. Raises ValueError."""
    try:
        blob = binascii.a2b_base64(encoded, strict_mode=True)
    except ValueError as exc:
        raise ValueError("it is not base64") from exc
    if not blob.startswith(len(kind).to_bytes(4) + kind.encode()):
        raise ValueError(f"it is not of the kind {kind}")
    return blob


def fingerprint(blob: bytes) -> str:
    """The fingerprint as OpenSSH prints it: `SHA256:...`."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).rstrip(b"=").decode()
