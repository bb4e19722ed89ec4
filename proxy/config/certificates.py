"""Reads certificates from files by Go's rules (crypto/x509, CertPool.AppendCertsFromPEM), as kubectl does.

Whatever else is in a file is skipped, and so is a certificate that Go cannot read. Since version 1.23, Go
cannot read a certificate with a negative serial number; OpenSSL can.
"""

from __future__ import annotations

import base64
import ipaddress
import re
import warnings
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec

# It does not match a block with header lines: Go skips those blocks.
_BLOCK: Final = re.compile(
    rb"^-----BEGIN CERTIFICATE-----\s*?\n([A-Za-z0-9+/=\s]*)^-----END CERTIFICATE-----", re.MULTILINE
)
# cryptography warns of the serial number 0, which a CA in every system's store has. `_go_error` refuses
# negative ones.
warnings.filterwarnings("ignore", "Parsed a serial number which wasn't positive")

_CURVES: Final = (ec.SECP224R1, ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_DOMAIN: Final = re.compile(r"([!-\-/-~]+(\.[!-\-/-~]+)*)?")
_URI: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]*")
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
    """One certificate. Raises ValueError if Go cannot read it."""
    if error := _go_error(der):
        raise ValueError(error)
    try:
        certificate = x509.load_der_x509_certificate(der)
        extensions = certificate.extensions  # cryptography parses them here, not in the line above
    except Exception as exc:  # hostile bytes cause many: an address constraint without a mask is a TypeError
        raise ValueError(str(exc)) from exc
    if certificate.version is x509.Version.v1 and len(extensions):
        raise ValueError("it is of version 1 and has extensions, which Go passes over")
    for extension in extensions:
        _require_well_formed(extension.value)
    if curve := _unknown_curve(certificate):
        raise ValueError(f"its key is on the curve {curve}, which Go does not know")
    return certificate


def _require_well_formed(value: x509.ExtensionType) -> None:
    """Raise ValueError for a name, or a constraint on names, that Go cannot read.

    Go refuses such a certificate. Without this check, the name would match nothing here, the constraint would
    exclude nothing, and the certificate would be accepted.
    """
    match value:
        case x509.SubjectAlternativeName():
            good = all(_is_name(one) for one in value)
        case x509.NameConstraints():
            subtrees = (*(value.permitted_subtrees or ()), *(value.excluded_subtrees or ()))
            good = all(
                is_domain(one.value.removeprefix(".")) for one in subtrees if isinstance(one, x509.DNSName)
            )
        case _:
            return
    if not good:
        raise ValueError("it holds a name that is malformed")


def _is_name(name: x509.GeneralName) -> bool:
    match name:
        case x509.DNSName() | x509.RFC822Name():
            return name.value.isascii()
        case x509.IPAddress():
            return isinstance(name.value, ipaddress.IPv4Address | ipaddress.IPv6Address)
        case x509.UniformResourceIdentifier():
            return _is_uri(name.value)
        case _:
            return True


def _is_uri(text: str) -> bool:
    try:
        return _URI.fullmatch(text) is not None and is_domain(urlsplit(text).hostname or "")
    except ValueError:
        return False


def is_domain(name: str) -> bool:
    """Whether Go can compare `name` with name constraints (verify.go, domainToReverseLabels)."""
    return _DOMAIN.fullmatch(name) is not None


def _unknown_curve(certificate: x509.Certificate) -> str:
    """The name of the curve of its key, if Go does not know that curve; otherwise empty."""
    try:
        key = certificate.public_key()
    except UnsupportedAlgorithm:
        # Go does not know this kind of key either: it reads the certificate, and trusts no signature.
        return ""
    if not isinstance(key, ec.EllipticCurvePublicKey) or isinstance(key.curve, _CURVES):
        return ""
    return key.curve.name


def _go_error(der: bytes) -> str:
    """Why Go refuses the certificate, where cryptography accepts it or gives an unclear message.

    Empty if there is no such reason. It reads the bytes itself (RFC 5280 4.1).
    """
    try:
        tag, at, end = _element(der, _element(der, 0)[1])  # Certificate, TBSCertificate
        if tag != _SEQUENCE:
            return ""
        tag, start, next_ = _element(der, at)
        if tag == _VERSION:
            tag, start, next_ = _element(der, next_)
        if tag == _INTEGER and start < next_ and der[start] >= 0x80:
            return "its serial number is negative"
        inner, outer = der[next_ : _element(der, next_)[2]], der[end : _element(der, end)[2]]
    except IndexError:
        return ""  # not a certificate: cryptography reports that
    return "" if inner == outer else "it names two algorithms for its signature"


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """Tag, start and end of the contents of the DER element at `at` (X.690 8.1)."""
    length, start = der[at + 1], at + 2
    if length >= 0x80:
        count = length & 0x7F
        length, start = int.from_bytes(der[start : start + count], "big"), start + count
    return der[at], start, start + length
