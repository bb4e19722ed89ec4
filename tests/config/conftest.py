"""The files that the configurations of these tests name, below ${KUBEMUX_TEST}."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import bcrypt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.support.tls import Authority


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder: key, open_key (mode 0644), known_hosts, bad_known_hosts, ca.crt, and for an entry
    tls.crt, tls.key, users and bad_users.

    Nothing of a test may change it.
    """
    folder = tmp_path_factory.mktemp("material")
    secret = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    for name, mode in (("key", 0o600), ("open_key", 0o644)):
        (folder / name).write_bytes(secret)
        (folder / name).chmod(mode)
    host_key = (
        Ed25519PrivateKey.generate()
        .public_key()
        .public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        .decode()
    )
    entry = f"bastion.example.com {host_key}\n"
    (folder / "known_hosts").write_text(entry)
    (folder / "bad_known_hosts").write_text("bastion.example.com ssh-ed25519 AAAA\nnonsense\n")
    authority = Authority(folder)
    authority.ca.cert.rename(folder / "ca.crt")
    authority.issue("tls")
    for name, hashed in (("users", bcrypt.hashpw(b"secret", bcrypt.gensalt(4))), ("bad_users", b"secret")):
        (folder / name).write_bytes(b"ci:" + hashed + b"\n")
        (folder / name).chmod(0o600)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBEMUX_TEST", str(folder))
        patch.delenv("KUBEMUX_UNSET", raising=False)
        yield folder
