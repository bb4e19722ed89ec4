r"""Recognises what a file of `identity_files` holds, without a passphrase. Pure.

-----BEGIN OPENSSH PRIVATE KEY-----
    OpenSSH's PROTOCOL.key: base64 of "openssh-key-v1\0", the name of the cipher ("none" if it is not
    encrypted), and more
-----BEGIN ENCRYPTED PRIVATE KEY-----, -----BEGIN PRIVATE KEY-----
    PKCS #8 (RFC 5958), encrypted or not
-----BEGIN RSA PRIVATE KEY-----
    PKCS #1, encrypted if it has the header "Proc-Type: 4,ENCRYPTED" (RFC 1421 4.6.1.1)
"""

from __future__ import annotations

import binascii
import re
from enum import Enum, auto

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
    load_pem_private_key,
)

from proxy.openssh import blobs

_BEGIN = re.compile(rb"^-----BEGIN ((?:[A-Z0-9]+ )*)PRIVATE KEY-----\s", re.MULTILINE)
_END = b"\n-----END "
_MAGIC = b"openssh-key-v1\0"
_UNENCRYPTED = b"\0\0\0\x04none"
_DER_SEQUENCE = b"\x30"
_PUBLIC = re.compile(rb"(?:ssh|ecdsa|sk-ssh|sk-ecdsa)-\S+ +AAAA")


class Content(Enum):
    """What a file holds."""

    KEY = auto()
    ENCRYPTED = auto()
    PUBLIC = auto()
    """A `.pub`: a public key, or a certificate."""
    OTHER = auto()


def recognise(data: bytes) -> Content:
    """What `data` holds. A binary key (DER) counts as not encrypted."""
    if found := _BEGIN.search(data):
        body, end, _ = data[found.end() :].partition(_END)
        return _in_pem(found[1], body) if end else Content.OTHER
    if data.startswith(_DER_SEQUENCE) and not data.isascii():
        return Content.KEY
    return Content.PUBLIC if _PUBLIC.match(data) else Content.OTHER


def public_blob(data: bytes) -> bytes | None:
    """The public half of the first key in OpenSSH's format, which does not encrypt it.

    None if `data` holds no such key.
    """
    found = _BEGIN.search(data)
    if not found or found[1] != b"OPENSSH ":
        return None
    try:
        blob = binascii.a2b_base64(data[found.end() :].partition(_END)[0])
    except ValueError:
        return None
    at = len(_MAGIC)
    for _ in range(3):  # cipher, KDF, its options
        at += 4 + int.from_bytes(blob[at : at + 4])
    at += 4  # how many keys
    size = int.from_bytes(blob[at : at + 4])
    public = blob[at + 4 : at + 4 + size]
    return public if blob.startswith(_MAGIC) and 0 < size == len(public) else None


def unfit(data: bytes) -> str:
    """Why this unencrypted key cannot be a host key of our SSH server; empty if it can."""
    blob = public_blob(data)
    if blob is None:
        load = load_der_private_key if data.startswith(_DER_SEQUENCE) else load_pem_private_key
        try:
            public = load(data, None).public_key()
            if not isinstance(public, RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey):
                return "keys of its kind are not accepted"
            text = public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        except (ValueError, UnsupportedAlgorithm):
            return "it is no key of SSH"
        blob = binascii.a2b_base64(text.split()[1])
    try:
        blobs.check(blob)
    except ValueError as exc:
        return str(exc)
    return ""


def _in_pem(label: bytes, body: bytes) -> Content:
    if label != b"OPENSSH ":
        return (
            Content.ENCRYPTED if label == b"ENCRYPTED " or b"Proc-Type: 4,ENCRYPTED" in body else Content.KEY
        )
    try:
        blob = binascii.a2b_base64(body)
    except ValueError:
        return Content.OTHER
    if not blob.startswith(_MAGIC):
        return Content.OTHER
    return Content.KEY if blob.startswith(_UNENCRYPTED, len(_MAGIC)) else Content.ENCRYPTED
