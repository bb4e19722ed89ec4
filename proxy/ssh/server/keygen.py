"""Makes the server's private keys. An existing key is never replaced, because clients trust it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple

import asyncssh

from proxy.config.files import Unusable
from proxy.openssh import blobs
from proxy.ssh.server import host_keys

RSA_BITS: Final = 3072
"""The default of ssh-keygen."""


class HostKey(NamedTuple):
    """The public facts of a host key."""

    path: Path
    kind: str
    base64: str
    fingerprint: str
    is_new: bool


def ensure(path: Path) -> HostKey:
    """Make the key at `path` if the file does not exist. Raises Unusable."""
    is_new = not path.exists()
    if is_new:
        _make(path)
    key = host_keys.read([path])[0]
    kind, encoded, *_ = key.export_public_key().decode().split()
    return HostKey(path, kind, encoded, blobs.fingerprint(key.public_data), is_new)


def public(path: Path) -> str:
    """The public half of the key at `path`, as `ssh-ed25519 BASE64`. Raises Unusable."""
    kind, encoded, *_ = host_keys.read([path])[0].export_public_key().decode().split()
    return f"{kind} {encoded}"


def _make(path: Path) -> None:
    if "rsa" in path.name:
        key = asyncssh.generate_private_key("ssh-rsa", key_size=RSA_BITS)
    else:
        kind = "ecdsa-sha2-nistp256" if "ecdsa" in path.name else "ssh-ed25519"
        key = asyncssh.generate_private_key(kind)
    try:
        number = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except OSError as exc:
        raise Unusable(
            f"{path} cannot be made: {exc.strerror}", "its folder must exist, and be writable for this user"
        ) from exc
    try:
        with os.fdopen(number, "wb") as file:
            file.write(key.export_private_key())
    except OSError as exc:
        path.unlink()
        raise Unusable(f"{path} cannot be written: {exc.strerror}", "is the disk full?") from exc
