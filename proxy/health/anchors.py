"""The two values that verification works with: a certificate, and the set of trusted certificates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from proxy.runtime.text import printable

E = TypeVar("E", bound=x509.ExtensionType)

_FOR_SERVERS: Final = frozenset({ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE})


class Certificate:
    """One certificate, and its fields as verification reads them."""

    def __init__(self, parsed: x509.Certificate) -> None:
        self.parsed = parsed
        self.der: Final = parsed.public_bytes(Encoding.DER)
        self.subject: Final = parsed.subject.public_bytes()

    def __repr__(self) -> str:
        return f"<Certificate {self}>"

    def __str__(self) -> str:
        return printable(self.parsed.subject.rfc4514_string()) or "a certificate without a name"

    @cached_property
    def issuer(self) -> bytes:
        """The name of its issuer, as DER bytes: Go compares bytes."""
        return self.parsed.issuer.public_bytes()

    @cached_property
    def key(self) -> CertificatePublicKeyTypes | None:
        """Its public key; None if cryptography does not know its kind."""
        try:
            return self.parsed.public_key()
        except (UnsupportedAlgorithm, ValueError):
            return None

    @cached_property
    def names(self) -> x509.SubjectAlternativeName:
        """Its names (subjectAltName); empty if it has none."""
        return self.extension(x509.SubjectAlternativeName) or x509.SubjectAlternativeName([])

    def extension(self, kind: type[E]) -> E | None:
        """The value of the extension of this kind; None if it has none."""
        try:
            return self.parsed.extensions.get_extension_for_class(kind).value
        except x509.ExtensionNotFound:
            return None

    @property
    def is_ca(self) -> bool:
        """Whether its basic constraints say that it is a CA."""
        constraints = self.extension(x509.BasicConstraints)
        return constraints is not None and constraints.ca

    @property
    def signs_certificates(self) -> bool:
        """Whether its extensions allow its key to sign certificates.

        A certificate of version 1 has no extensions, so it may sign.
        """
        usage = self.extension(x509.KeyUsage)
        if usage and not usage.key_cert_sign:
            return False
        return self.is_ca or (
            self.extension(x509.BasicConstraints) is None and self.parsed.version is x509.Version.v1
        )

    @property
    def is_for_servers(self) -> bool:
        """Whether its extended key usage allows servers. If it has none, every use is allowed."""
        usage = self.extension(x509.ExtendedKeyUsage)
        return usage is None or not {
            ExtendedKeyUsageOID.SERVER_AUTH,
            ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
        }.isdisjoint(usage)

    def has_signed(self, child: Certificate) -> bool:
        """Whether this certificate's key has signed `child`. `proxy.health.chain` checks the algorithm."""
        try:
            child.parsed.verify_directly_issued_by(self.parsed)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            return False
        return True


class Anchors:
    """The trusted certificates: all certificates of a CA file, self-signed or not."""

    def __init__(self, certificates: Iterable[x509.Certificate]) -> None:
        self._by_subject: dict[bytes, list[Certificate]] = {}
        self._all: set[bytes] = set()
        for parsed in certificates:
            # The files of a system's CA store hold each certificate several times.
            if (der := parsed.public_bytes(Encoding.DER)) not in self._all:
                self._all.add(der)
                one = Certificate(parsed)
                self._by_subject.setdefault(one.subject, []).append(one)

    def __contains__(self, certificate: Certificate) -> bool:
        return certificate.der in self._all

    def named(self, subject: bytes) -> Sequence[Certificate]:
        """The trusted certificates with this subject."""
        return self._by_subject.get(subject, ())
