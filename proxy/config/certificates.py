"""Certificates in files, read as Go reads them (crypto/x509, CertPool.AppendCertsFromPEM): what one kubectl takes, we take.

A file may hold other things beside them, and certificates that nobody can read: those are passed over. One with a negative
serial number is such a one, since Go 1.23; OpenSSL does not mind.
"""

from __future__ import annotations

import base64
import re
import warnings
from collections.abc import Iterator
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec

# Without header lines: Go passes over blocks that have some.
_BLOCK: Final = re.compile(rb"^-----BEGIN CERTIFICATE-----\s*?\n([A-Za-z0-9+/=\s]*)^-----END CERTIFICATE-----", re.MULTILINE)
# Every system's store has a CA with the serial number 0, which is not ours to mend; negative ones never come that far.
warnings.filterwarnings("ignore", "Parsed a serial number which wasn't positive")

_CURVES: Final = (ec.SECP224R1, ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_SEQUENCE: Final = 0x30
_VERSION: Final = 0xA0
_INTEGER: Final = 0x02


def load_pem(data: bytes) -> list[x509.Certificate]:
    """The certificates in `data`, in their order. Raises ValueError if there is none that can be read."""
    found = list(_readable(data))
    if not found:
        raise ValueError("holds no PEM certificate that can be read")
    return found


def _readable(data: bytes) -> Iterator[x509.Certificate]:
    for match in _BLOCK.finditer(data):
        try:
            certificate = load_der(base64.b64decode(b"".join(match[1].split()), validate=True))
        except ValueError:
            continue
        yield certificate


def load_der(der: bytes) -> x509.Certificate:
    """One certificate. Raises ValueError if Go would not read it either."""
    if _serial_is_negative(der):
        raise ValueError("its serial number is negative")
    try:
        certificate = x509.load_der_x509_certificate(der)
        certificate.extensions  # noqa: B018 - parsed when asked for
    except (x509.DuplicateExtension, x509.UnsupportedGeneralNameType, x509.InvalidVersion) as exc:
        raise ValueError(str(exc)) from exc
    if curve := _strange_curve(certificate):
        raise ValueError(f"its key is on the curve {curve}, which Go does not know")
    return certificate


def _strange_curve(certificate: x509.Certificate) -> str:
    try:
        key = certificate.public_key()
    except UnsupportedAlgorithm:
        return ""  # a key of a kind that nobody knows, Go neither: it can be looked at, and signs nothing
    return "" if not isinstance(key, ec.EllipticCurvePublicKey) or isinstance(key.curve, _CURVES) else key.curve.name


def _serial_is_negative(der: bytes) -> bool:
    """Looked up in the bytes (RFC 5280 4.1): a later cryptography may say no more than that it cannot read it."""
    try:
        tag, at, _ = _element(der, _element(der, 0)[1])  # Certificate, TBSCertificate
        if tag != _SEQUENCE:
            return False
        tag, start, end = _element(der, at)
        if tag == _VERSION:
            tag, start, end = _element(der, end)
        return tag == _INTEGER and start < end and der[start] >= 0x80
    except IndexError:
        return False  # no certificate: for its reader to say


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """Tag, start and end of the contents of the DER element at `at` (X.690 8.1)."""
    length, start = der[at + 1], at + 2
    if length >= 0x80:
        count = length & 0x7F
        length, start = int.from_bytes(der[start : start + count], "big"), start + count
    return der[at], start, start + length
