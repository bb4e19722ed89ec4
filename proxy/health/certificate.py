"""Describes a server's certificate, so that a message can explain why it was refused."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from proxy.config.certificates import load_der
from proxy.runtime.text import printable


@dataclass(frozen=True, slots=True)
class Certificate:
    """What the certificate says of itself. Nothing of it is verified."""

    names: tuple[str, ...]
    """The DNS names and IP addresses that it is for (subjectAltName, RFC 5280 4.2.1.6)."""
    issuer: str
    not_before: datetime
    not_after: datetime

    def __str__(self) -> str:
        names = ", ".join(self.names) or "nothing"
        return (
            f"it names {names}; issued by {self.issuer}; valid from {self.not_before:%F %T} to "
            f"{self.not_after:%F %T} UTC"
        )


def read(der: bytes) -> Certificate | None:
    """The description of a certificate in DER; None if it cannot be read."""
    try:
        certificate = load_der(der)
    except ValueError:
        return None
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    return Certificate(
        names=tuple(
            printable(str(name))
            for name in (*names.get_values_for_type(x509.DNSName), *names.get_values_for_type(x509.IPAddress))
        ),
        issuer=printable(certificate.issuer.rfc4514_string()),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
    )
