"""When certificates expire: OpenSSH user certificates of gateways, those of clusters and entries.

The functions read the files as they are now, and block. A file that cannot be read, or that holds no
certificate, is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import SSHCertificate, load_ssh_public_identity

from proxy.config import certificates
from proxy.config.files import MAX_CREDENTIAL_BYTES, Unusable, read_bytes
from proxy.config.findings import dotted
from proxy.config.keys import Kind
from proxy.config.model import Config, GatewayConfig
from proxy.config.references import references, sections

SOON_S: Final = 14 * 86400.0
"""As in the shipped alert. A certificate that is valid for less than ten weeks counts as ending soon in the
last fifth of that time.
"""

_LAST: Final = datetime.max.replace(tzinfo=UTC).timestamp()


class Validity(NamedTuple):
    """The time in which a certificate is valid, in Unix time."""

    start: float
    end: float

    def ends_soon(self, now: float) -> bool:
        """Whether it has expired, or will soon."""
        return self.end - now < min(SOON_S, (self.end - self.start) / 5)


def openssh(line: bytes) -> Validity | None:
    """The validity of the certificate in `line` (`TYPE BASE64 [COMMENT]`, PROTOCOL.certkeys).

    None if that is not a certificate, or one that never expires.
    """
    try:
        found = load_ssh_public_identity(line)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    if not isinstance(found, SSHCertificate) or found.valid_before > _LAST:
        return None
    return Validity(found.valid_after, found.valid_before)


def user_certificates(config: GatewayConfig) -> Iterator[tuple[Path, Validity]]:
    """The certificates in `certificate_files`, and those beside `identity_files` (`KEY-cert.pub`)."""
    beside = [Path(f"{path}-cert.pub") for path in config.identity_files]
    for path in dict.fromkeys((*config.certificate_files, *beside)):
        for line in _read(path).splitlines():
            if validity := openssh(line):
                yield path, validity


def ending_soon(config: Config, now: float) -> Iterator[tuple[str, str]]:
    """A warning and a remedy for each certificate that has expired or will soon."""
    for name, gateway in config.gateways.items():
        for path, validity in user_certificates(gateway):
            if validity.ends_soon(now):
                yield (
                    _warning(f"gateways.{name}", path, validity, now),
                    "sign it anew: ssh-keygen -s CA -I ID -n USER KEY.pub",
                )
    for section, named in sections(config).items():
        if not isinstance(named, GatewayConfig):
            for loc, path, kind in references(named):
                for validity in _x509(path) if kind is Kind.CERTIFICATES else ():
                    if validity.ends_soon(now):
                        yield (
                            _warning(dotted((*section, *loc)), path, validity, now),
                            f"openssl x509 -noout -text -in {path}",
                        )


def _warning(key: str, path: Path, validity: Validity, now: float) -> str:
    verb = "expired" if validity.end < now else "expires"
    return f"{key}: certificate {path} {verb} on {date(validity.end)}"


def date(when: float) -> str:
    """Unix time as text: `2026-01-31 12:00:00 UTC`."""
    return f"{datetime.fromtimestamp(when, UTC):%F %T} UTC"


def _x509(path: Path) -> Iterator[Validity]:
    try:
        found = certificates.load_pem(_read(path))
    except ValueError:
        return
    for one in found:
        yield Validity(one.not_valid_before_utc.timestamp(), one.not_valid_after_utc.timestamp())


def _read(path: Path) -> bytes:
    try:
        return read_bytes(path, limit=MAX_CREDENTIAL_BYTES)[0]
    except Unusable:
        return b""
