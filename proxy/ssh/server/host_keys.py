"""The private host keys of our SSH server, and the options with which it negotiates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import asyncssh
from asyncssh.kex import get_kex_algs

from proxy.config import credential_file
from proxy.config.files import MAX_CREDENTIAL_BYTES, Unusable, read_bytes
from proxy.openssh import blobs
from proxy.openssh.algorithms import usable
from proxy.ssh.login.algorithms import ENCRYPTION
from proxy.ssh.server.login import SIGNATURES

_KEX: Final = (
    "mlkem768x25519-sha256",
    "curve25519-sha256",
    "curve25519-sha256@libssh.org",
    "ecdh-sha2-nistp256",
    "ecdh-sha2-nistp384",
    "ecdh-sha2-nistp521",
)
"""No finite-field Diffie-Hellman: a client could choose a large group before its login, and that costs us
0.1 s of CPU. OpenSSH 6.5, dropbear 2013.62, PuTTY 0.68 and later support curve25519.
"""
_MACS: Final = (
    "hmac-sha2-256-etm@openssh.com",
    "hmac-sha2-512-etm@openssh.com",
    "hmac-sha2-256",
    "hmac-sha2-512",
)


Keys = list[asyncssh.SSHKey]


def read(paths: Sequence[Path]) -> Keys:
    """Read the keys in these files. This blocks. Raises Unusable, which names the file."""
    return [_read(path) for path in paths]


def _read(path: Path) -> asyncssh.SSHKey:
    try:
        data, status = read_bytes(path, limit=MAX_CREDENTIAL_BYTES)
    except Unusable as exc:
        hint = credential_file.NO_HOST_KEY if isinstance(exc.__cause__, FileNotFoundError) else exc.hint
        raise Unusable(f"{path} {exc}", hint) from exc
    if credential_file.is_too_open(path, status):
        raise Unusable(f"{path} is a secret that others may read", f"chmod 600 {path}")
    try:
        key = asyncssh.import_private_key(data)
        blobs.check(key.public_data)
    except ValueError as exc:
        hint = "it must be a private key as ssh-keygen writes it, without a passphrase"
        raise Unusable(f"{path} cannot be used: {exc}", hint) from exc
    return key


def options(
    keys: Sequence[asyncssh.SSHKey], session: Callable[[], asyncssh.SSHServer], *, login_timeout: float
) -> asyncssh.SSHServerConnectionOptions:
    """Options for asyncssh: logins by key only, no terminals, no agent or X11 forwarding."""
    return asyncssh.SSHServerConnectionOptions(
        server_factory=session,
        server_version="kubemux",
        server_host_keys=list(keys),
        send_server_host_keys=True,  # a client with UpdateHostKeys learns a new key before the old one goes
        kex_algs=list(usable(_KEX, (name.decode() for name in get_kex_algs()))),
        encryption_algs=list(ENCRYPTION),
        mac_algs=list(_MACS),
        compression_algs=["none"],
        signature_algs=list(SIGNATURES),
        login_timeout=login_timeout,
        host_based_auth=False,
        kbdint_auth=False,
        password_auth=False,
        gss_host=None,
        gss_kex=False,
        gss_auth=False,
        allow_pty=False,
        agent_forwarding=False,
        x11_forwarding=False,
    )
