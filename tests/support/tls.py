"""Certificate authorities and certificates (EC P-256), as files."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its key, PEM."""

    cert: Path
    key: Path
    not_after: datetime


def _write(folder: Path, name: str, cert: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Issued:
    issued = Issued(folder / f"{name}.crt", folder / f"{name}.key", cert.not_valid_after_utc)
    issued.cert.write_bytes(cert.public_bytes(Encoding.PEM))
    issued.key.touch(mode=0o600)
    issued.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return issued


def _name(common_name: str, organization: str = "") -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if organization:
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(attributes)


class Authority:
    """A CA in `folder`; its certificate is `ca`.cert."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = _name(f"kubemux test {name}")
        identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        usage = x509.KeyUsage(
            digital_signature=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        cert = (
            self._builder(
                self._subject, self._key.public_key(), valid=(timedelta(hours=-1), timedelta(days=1))
            )
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(identifier, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.ca = _write(folder, name, cert, self._key)

    def issue(
        self,
        name: str,
        *,
        dns: tuple[str, ...] = (),
        ips: tuple[str, ...] = (),
        others: tuple[x509.GeneralName, ...] = (),
        organization: str = "",
        valid: tuple[timedelta, timedelta] = (timedelta(hours=-1), timedelta(hours=23)),
    ) -> Issued:
        """A certificate for servers and clients with `name` as common name.

        `valid` are its begin and end, relative to now.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        addresses = (x509.IPAddress(ipaddress.ip_address(ip)) for ip in ips)
        names = [*map(x509.DNSName, dns), *addresses, *others]
        builder = (
            self._builder(_name(name, organization), key.public_key(), valid=valid)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            # Python 3.13 verifies strictly, and RFC 5280 4.2.1.1 requires this extension.
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return _write(self.folder, name, builder.sign(self._key, hashes.SHA256()), key)

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, *, valid: tuple[timedelta, timedelta]
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + valid[0])
            .not_valid_after(now + valid[1])
        )


class Certificates:
    """The certificates of a cluster: its CA, a server certificate for `kubernetes` (not for 127.0.0.1), and
    an administrator's client certificate.
    """

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.authority = Authority(folder, name)
        self.ca = self.authority.ca.cert
        self.server_name = "kubernetes"
        self.server = self.authority.issue("server", dns=(self.server_name,))
        self.admin = self.authority.issue("admin", organization="system:masters")
