"""Certificates in files, read as Go reads them (crypto/x509, CertPool.AppendCertsFromPEM), because kubectl
does.

Other things in a file are skipped, and so are certificates that cannot be read. Since Go 1.23 a certificate
with a negative serial number is one of those; OpenSSL accepts it.
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

# Without header lines: Go skips blocks that have some.
_BLOCK: Final = re.compile(
    rb"^-----BEGIN CERTIFICATE-----\s*?\n([A-Za-z0-9+/=\s]*)^-----END CERTIFICATE-----", re.MULTILINE
)
# The store of every system has a CA with the serial number 0. Certificates with a negative one were refused
# before.
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
    if oddity := _oddity(der):
        raise ValueError(oddity)
    try:
        certificate = x509.load_der_x509_certificate(der)
        extensions = certificate.extensions  # parsed when asked for
    except (
        Exception
    ) as exc:  # hostile bytes: a constraint on an address without a mask is a TypeError, for example
        raise ValueError(str(exc)) from exc
    if certificate.version is x509.Version.v1 and len(extensions):
        raise ValueError("it is of version 1 and has extensions, which Go passes over")
    for extension in extensions:
        _be_well_formed(extension.value)
    if curve := _strange_curve(certificate):
        raise ValueError(f"its key is on the curve {curve}, which Go does not know")
    return certificate


def _be_well_formed(value: x509.ExtensionType) -> None:
    """Raise ValueError for a name, or a constraint on names, that Go cannot read.

    Without that, it would match nothing and exclude nothing here.
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
    """Whether constraints can be held against `name` (verify.go, domainToReverseLabels)."""
    return _DOMAIN.fullmatch(name) is not None


def _strange_curve(certificate: x509.Certificate) -> str:
    try:
        key = certificate.public_key()
    except UnsupportedAlgorithm:
        return ""  # a key of a kind that Go does not know either: the certificate is read, and signs nothing
    return (
        ""
        if not isinstance(key, ec.EllipticCurvePublicKey) or isinstance(key.curve, _CURVES)
        else key.curve.name
    )


def _oddity(der: bytes) -> str:
    """What Go refuses and cryptography accepts, or refuses with unclear words: it is read from the bytes
    (RFC 5280 4.1).
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
        return ""  # no certificate: its reader reports that
    return "" if inner == outer else "it names two algorithms for its signature"


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """Tag, start and end of the contents of the DER element at `at` (X.690 8.1)."""
    length, start = der[at + 1], at + 2
    if length >= 0x80:
        count = length & 0x7F
        length, start = int.from_bytes(der[start : start + count], "big"), start + count
    return der[at], start, start + length
