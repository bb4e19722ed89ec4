"""The kind of a private key file, recognised without its passphrase: OpenSSH's format and those of other
tools.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.private_keys import Content, recognise, unfit
from tests.support.ssh_keys import new_key, sign

RSA = rsa.generate_private_key(65537, 1024)  # noqa: S505 - small keys are fast, and it protects nothing
LOCKED = BestAvailableEncryption(b"secret")


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
@pytest.mark.parametrize(("passphrase", "content"), [("", Content.KEY), ("secret", Content.ENCRYPTED)])
def test_a_key_of_ssh_keygen_is_recognised(
    tmp_path: Path, kind: str, passphrase: str, content: Content
) -> None:
    key = new_key(tmp_path / "key", kind=kind, passphrase=passphrase)
    data = key.read_bytes()
    assert recognise(data) is content
    assert recognise(b"a comment\n" + data) is content
    assert recognise(data.replace(b"\n", b"\r\n")) is content
    assert recognise(data[: len(data) // 2]) is Content.OTHER
    assert recognise(Path(f"{key}.pub").read_bytes()) is Content.PUBLIC


@pytest.mark.parametrize("form", [PrivateFormat.TraditionalOpenSSL, PrivateFormat.PKCS8])
@pytest.mark.parametrize(
    ("encryption", "content"), [(NoEncryption(), Content.KEY), (LOCKED, Content.ENCRYPTED)]
)
def test_a_key_of_openssl_is_recognised(
    form: PrivateFormat, encryption: KeySerializationEncryption, content: Content
) -> None:
    assert recognise(RSA.private_bytes(Encoding.PEM, form, encryption)) is content


def test_a_binary_file_counts_as_a_key() -> None:
    assert recognise(RSA.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())) is Content.KEY


def test_a_certificate_is_public(tmp_path: Path) -> None:
    key = new_key(tmp_path / "key")
    assert recognise(sign(key, ca=key, principals="me").read_bytes()) is Content.PUBLIC


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"000",
        b"a secret\n",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
        b"-----BEGIN OPENSSH PRIVATE KEY-----\nA\n-----END OPENSSH PRIVATE KEY-----\n",
        b"-----BEGIN RSA PRIVATE KEY-----\n" * 20_000,
    ],
)
def test_data_that_is_no_key_is_recognised(data: bytes) -> None:
    assert recognise(data) is Content.OTHER


@given(st.binary(max_size=200))
def test_a_key_file_with_any_bytes_in_it_is_recognised(data: bytes) -> None:
    assert recognise(b"-----BEGIN OPENSSH PRIVATE KEY-----\n" + data + b"\n-----END ") in Content


@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
@pytest.mark.parametrize(
    ("make", "why"),
    [
        (ed25519.Ed25519PrivateKey.generate, ""),
        (lambda: ec.generate_private_key(ec.SECP256R1()), ""),
        (lambda: rsa.generate_private_key(65537, 2048), ""),
        (lambda: rsa.generate_private_key(65537, 1024), "it has 1024 bits, and 2048 to 16384 are accepted"),  # noqa: S505 - it is refused
        (lambda: ec.generate_private_key(ec.SECP256K1()), "it is no key of SSH"),
        (ed448.Ed448PrivateKey.generate, "keys of its kind are not accepted"),
    ],
)
def test_a_host_key_is_of_a_kind_that_clients_accept(
    make: Callable[[], PrivateKeyTypes], why: str, encoding: Encoding
) -> None:
    assert unfit(make().private_bytes(encoding, PrivateFormat.PKCS8, NoEncryption())) == why


def test_a_host_key_must_be_a_private_key_of_ssh(tmp_path: Path) -> None:
    assert unfit(new_key(tmp_path / "key").read_bytes()) == ""
    assert unfit(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n") == "it is no key of SSH"
