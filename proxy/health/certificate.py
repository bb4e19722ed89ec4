"""What a server's certificate says of itself, for a person who wonders why it was refused.

A failed verification keeps no certificate, so this is a second connection, one that trusts anybody: it is only ever used to
look at the certificate, and nothing is sent over it after the handshake. `kubemux probe` does this, the daemon never.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from proxy.config.model import ClusterConfig
from proxy.errors import ProxyError
from proxy.health.probe import Dial
from proxy.health.result import Failure
from proxy.health.stream import TlsStream
from proxy.health.tls import server_name
from proxy.text import printable


@dataclass(frozen=True, slots=True)
class Certificate:
    """What it claims. Nothing of this is verified."""

    names: tuple[str, ...]
    """The DNS names and IP addresses that it is for (subjectAltName, RFC 5280 4.2.1.6)."""
    issuer: str
    not_before: datetime
    not_after: datetime

    def __str__(self) -> str:
        names = ", ".join(self.names) or "nothing"
        return f"it names {names}; issued by {self.issuer}; valid from {self.not_before:%F %T} to {self.not_after:%F %T} UTC"


async def look(config: ClusterConfig, dial: Dial) -> Certificate | None:
    """The certificate that the server shows within `probe.timeout`; None if it shows none that can be read."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    deadline = asyncio.get_running_loop().time() + config.probe.timeout
    try:
        async with asyncio.timeout_at(deadline):
            with await dial(deadline) as sock:
                stream = TlsStream(sock, context, server_name(config))
                await stream.handshake()
                der = stream.certificate()
        return read(der) if der else None
    except (ProxyError, Failure, OSError, ValueError):  # TimeoutError is an OSError
        return None


def read(der: bytes) -> Certificate:
    """Read a certificate. Raises ValueError if it is not one."""
    certificate = x509.load_der_x509_certificate(der)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension):
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
