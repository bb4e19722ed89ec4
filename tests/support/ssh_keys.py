"""Keys, certificates and known_hosts lines, made by OpenSSH's own ssh-keygen.

Plain keys are not: the suite needs 2,000 of them, and to start a program for each takes 16 s.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.support.parts import find


def _keygen(*args: str | Path) -> None:
    subprocess.run(
        [find("ssh-keygen") or "ssh-keygen", "-q", *args], check=True, capture_output=True, timeout=60
    )


def public(key: Path) -> str:
    """`ssh-ed25519 AAAA...`, the public half of `key`."""
    return " ".join(Path(f"{key}.pub").read_text().split()[:2])


def new_key(path: Path, *, passphrase: str = "", kind: str = "ed25519") -> Path:
    """A key pair at `path` (mode 0600) and `path`.pub."""
    if kind == "ed25519" and not passphrase:
        _write(path, Ed25519PrivateKey.generate())
        return path
    # One round of the key derivation function: the default of 16 takes half a second, and these passphrases
    # protect nothing.
    size = ["-b", "2048"] if kind == "rsa" else []
    _keygen("-t", kind, *size, "-N", passphrase, "-a", "1", "-C", path.name, "-f", path)
    return path


def _write(path: Path, key: Ed25519PrivateKey) -> None:
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    path.touch(0o600)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    Path(f"{path}.pub").write_text(f"{public} {path.name}\n")


def sign(
    key: Path,
    *,
    ca: Path,
    principals: str = "",
    host: bool = False,
    validity: str = "-1h:+1h",
    more: Sequence[str] = (),
) -> Path:
    """Sign `key` with `ca`. Returns the path of the certificate, a user's or (`host`) a host's.

    Without `principals` it is valid for every name. `validity` is ssh-keygen(1)'s -V, `more` are other
    options of that program.
    """
    names = ["-n", principals] if principals else []
    kind = ["-h"] if host else []
    _keygen("-s", ca, "-I", key.name, *names, "-V", validity, *kind, *more, f"{key}.pub")
    return Path(f"{key}-cert.pub")


def hash_hosts(known_hosts: Path) -> None:
    """Replace the host names in a known_hosts file by their hashes, as with HashKnownHosts (Debian's
    default).
    """
    _keygen("-H", "-f", known_hosts)
    Path(f"{known_hosts}.old").unlink()


def fingerprint(key: Path) -> str:
    """`SHA256:...`, as ssh-keygen prints it."""
    done = subprocess.run(
        [find("ssh-keygen") or "ssh-keygen", "-l", "-f", f"{key}.pub"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout.split()[1]
