"""Makes valid and malformed certificates, and runs a TLS server that presents them."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from proxy.runtime.endpoint import Endpoint

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

HOUR: Final = timedelta(hours=1)
NOW: Final = datetime.now(UTC)
ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
SERVER_AUTH, CLIENT_AUTH = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH


@cache
def key(kind: str, number: int = 0) -> Key:
    """A private key. The same arguments give the same key, because it takes time to generate one.

    Another `number` gives another key of the same kind.
    """
    del number
    match kind:
        case "p224":
            return ec.generate_private_key(ec.SECP224R1())
        case "p256":
            return ec.generate_private_key(ec.SECP256R1())
        case "p384":
            return ec.generate_private_key(ec.SECP384R1())
        case "p521":
            return ec.generate_private_key(ec.SECP521R1())
        case "k256":
            return ec.generate_private_key(ec.SECP256K1())
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
        case _:
            return rsa.generate_private_key(public_exponent=65537, key_size=int(kind.removeprefix("rsa")))


@dataclass(frozen=True)
class Spec:
    """The contents of a certificate."""

    name: str = "server"
    key: str = "p256"
    number: int = 0
    dns: tuple[str, ...] = ()
    ips: tuple[str, ...] = ()
    ca: bool | None = None
    """None: the certificate has no basic constraints extension."""
    path_length: int | None = None
    usage: tuple[str, ...] | None = None
    extended: tuple[x509.ObjectIdentifier, ...] | None = None
    permitted: tuple[x509.GeneralName, ...] | None = None
    excluded: tuple[x509.GeneralName, ...] | None = None
    more: tuple[tuple[x509.ExtensionType, bool], ...] = ()
    valid: tuple[timedelta, timedelta] = (-HOUR, HOUR)
    hash: str = "SHA256"
    """The name of a class in cryptography's `hashes` module."""
    pss: bool = False
    salt: int | None = None
    """The length of the RSASSA-PSS salt in bytes. None: the length of the hash."""
    negative: bool = False
    """Whether the serial number is negative."""
    printable_issuer: bool = False
    """The leaf encodes the issuer's name as PrintableString, the issuer's own certificate as UTF8String."""
    authority_id: bytes | None = None
    version_1: bool = False
    """The version field says 1, whether or not the certificate has extensions (which version 1 cannot have).
    """
    misnamed: bool = False
    """`signatureAlgorithm` differs from the `signature` field inside the signed part (RFC 5280 4.1.1.2)."""


@dataclass(frozen=True)
class Made:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: Key

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)


def authority(name: str, **changes: object) -> Spec:
    """A CA with the extensions that kubeadm gives to its own."""
    return replace(Spec(name, ca=True, usage=("key_cert_sign", "digital_signature")), **changes)  # type: ignore[arg-type]


_USAGES: Final = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def _name(text: str, *, kind: x509.name._ASN1Type = x509.name._ASN1Type.UTF8String) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text, _type=kind)])


def make(spec: Spec, issuer: Made | None = None) -> Made:
    """The certificate, signed by `issuer`; without one it is self-signed."""
    own = key(spec.key, spec.number)
    signer = issuer.key if issuer else own
    above = issuer.certificate.subject if issuer else _name(spec.name)
    if spec.printable_issuer:
        text = above.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
        above = _name(str(text), kind=x509.name._ASN1Type.PrintableString)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(spec.name))
        .issuer_name(above)
        .public_key(own.public_key())
        .serial_number(_MARK if spec.negative else x509.random_serial_number())
        .not_valid_before(NOW + spec.valid[0])
        .not_valid_after(NOW + spec.valid[1])
    )
    for extension, critical in _extensions(spec):
        builder = builder.add_extension(extension, critical=critical)
    by_hand = spec.negative or spec.version_1 or spec.misnamed or spec.hash == "SHA1"
    digest: hashes.SHA256 = hashes.SHA256() if by_hand else getattr(hashes, spec.hash)()
    salt = padding.PSS.DIGEST_LENGTH if spec.salt is None else spec.salt
    pss = padding.PSS(padding.MGF1(digest), salt) if spec.pss else None
    certificate = builder.sign(
        signer, None if isinstance(signer, ed25519.Ed25519PrivateKey) else digest, rsa_padding=pss
    )
    if by_hand:
        certificate = _forged(certificate, spec, signer)
    return Made(certificate, own)


def _extensions(spec: Spec) -> Iterator[tuple[x509.ExtensionType, bool]]:
    if spec.ca is not None:
        yield x509.BasicConstraints(ca=spec.ca, path_length=spec.path_length), True
    if spec.usage is not None:
        yield x509.KeyUsage(**{name: name in spec.usage for name in _USAGES}), True
    if spec.extended is not None:
        yield x509.ExtendedKeyUsage(spec.extended), False
    if spec.dns or spec.ips:
        ips = [x509.IPAddress(ipaddress.ip_address(ip)) for ip in spec.ips]
        yield x509.SubjectAlternativeName([*map(x509.DNSName, spec.dns), *ips]), False
    if spec.permitted or spec.excluded:
        yield x509.NameConstraints(spec.permitted or None, spec.excluded or None), True
    if spec.authority_id is not None:
        yield x509.AuthorityKeyIdentifier(spec.authority_id, None, None), False
    yield from spec.more


_MARK: Final = 0x6B75_6265_6D75_7821
_ECDSA_SHA256: Final = bytes.fromhex("300a06082a8648ce3d040302")
_ECDSA_SHA384: Final = bytes.fromhex("300a06082a8648ce3d040303")
_ECDSA_SHA1: Final = bytes.fromhex("300906072a8648ce3d0401")


def _forged(certificate: x509.Certificate, spec: Spec, signer: Key) -> x509.Certificate:
    """Edit the DER and sign it again: the cryptography package refuses to write these certificates."""
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    body = certificate.tbs_certificate_bytes
    contents = body[2 if body[1] < 0x80 else 2 + (body[1] & 0x7F) :]
    algorithm, digest = _ECDSA_SHA256, spec.hash
    if spec.negative:
        contents = contents.replace(_MARK.to_bytes(8, "big"), (-_MARK).to_bytes(8, "big", signed=True))
    if spec.version_1:
        contents = contents.removeprefix(b"\xa0\x03\x02\x01\x02")
    if digest == "SHA1":
        algorithm = _ECDSA_SHA1
        contents = contents.replace(_ECDSA_SHA256, algorithm, 1)
    body = _sequence(contents)
    signature = signer.sign(body, ec.ECDSA(getattr(hashes, digest)()))
    if spec.misnamed:
        algorithm = _ECDSA_SHA384
    return x509.load_der_x509_certificate(
        _sequence(body + algorithm + b"\x03" + _length(len(signature) + 1) + b"\0" + signature)
    )


def _sequence(contents: bytes) -> bytes:
    return b"\x30" + _length(len(contents)) + contents


def _length(count: int) -> bytes:
    if count < 0x80:
        return bytes([count])
    size = (count.bit_length() + 7) // 8
    return bytes([0x80 | size]) + count.to_bytes(size, "big")


class TlsServer:
    """A TLS server in a thread. It presents `chain`, and answers every request as a healthy API
    server does.
    """

    def __init__(self, folder: Path, chain: Sequence[Made], *, context: ssl.SSLContext | None = None) -> None:
        pem = folder / "server.pem"
        private = chain[0].key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        pem.touch(mode=0o600)
        pem.write_bytes(private + b"".join(made.pem for made in chain))
        self._context = context or ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if context is None:
            self._context.set_ciphers("ALL:@SECLEVEL=0")
        self._context.load_cert_chain(pem)
        self.sni: list[str | None] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = Endpoint(*self._listener.getsockname())
        self._thread = threading.Thread(target=self._serve, name="tls server")

    def note_names(self) -> None:
        """From now on, add the server name that each client sends (SNI) to `sni`.

        Not by default: with a callback, Python fails handshakes whose server name is not ASCII.
        """
        self._context.sni_callback = self._note_name

    def _note_name(self, _tls: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        self.sni.append(name)

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.settimeout(60)
            with sock, suppress(OSError), self._context.wrap_socket(sock, server_side=True) as tls:
                head = b""
                while b"\r\n\r\n" not in head and (data := tls.recv(4096)):
                    head += data
                if head:
                    tls.sendall(ANSWER)

    @contextmanager
    def running(self) -> Iterator[Endpoint]:
        """Serve until the block ends."""
        self._thread.start()
        try:
            yield self.endpoint
        finally:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._thread.join()
