"""The files, below ${KUBEMUX_TEST}, that the configurations of these tests name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import bcrypt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from tests.support.tls import Authority


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder: key, open_key (mode 0644), known_hosts, bad_known_hosts, ca.crt, for an entry tls.crt,
    tls.key, users and bad_users, and for the SSH server site.pub, user.pub, user_ca.pub, command.pub (a key
    with an option that is not enforced) and locked_key.

    Tests must not change it.
    """
    folder = tmp_path_factory.mktemp("material")
    secret = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    for name, mode in (("key", 0o600), ("open_key", 0o644)):
        (folder / name).write_bytes(secret)
        (folder / name).chmod(mode)
    entry = f"bastion.example.com {_public()}\n"
    (folder / "known_hosts").write_text(entry)
    (folder / "bad_known_hosts").write_text("bastion.example.com ssh-ed25519 AAAA\nnonsense\n")
    authority = Authority(folder)
    authority.ca.cert.rename(folder / "ca.crt")
    authority.issue("tls")
    for name, hashed in (("users", bcrypt.hashpw(b"secret", bcrypt.gensalt(4))), ("bad_users", b"secret")):
        (folder / name).write_bytes(b"ci:" + hashed + b"\n")
        (folder / name).chmod(0o600)
    for name in ("site", "user", "user_ca"):
        (folder / f"{name}.pub").write_text(f"{_public()} {name}\n")
    (folder / "command.pub").write_text(f'command="true" {_public()}\n')
    (folder / "locked_key").write_bytes(
        Ed25519PrivateKey.generate().private_bytes(
            Encoding.PEM, PrivateFormat.OpenSSH, BestAvailableEncryption(b"secret")
        )
    )
    (folder / "locked_key").chmod(0o600)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBEMUX_TEST", str(folder))
        patch.delenv("KUBEMUX_UNSET", raising=False)
        yield folder


def _public() -> str:
    """The line of a new public key."""
    key = Ed25519PrivateKey.generate().public_key()
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
