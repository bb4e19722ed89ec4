"""The files a configuration refers to: which they are, whether they can be used, and whether they changed."""

from __future__ import annotations

import binascii
import hashlib
import os
import stat
from collections.abc import Iterator
from enum import Enum, auto
from pathlib import Path
from typing import NamedTuple

from cryptography import x509

from proxy.config.files import MAX_CREDENTIAL_BYTES, Unusable, read_bytes
from proxy.config.model import ClusterConfig, Config, GatewayConfig
from proxy.config.rules import Finding
from proxy.config.yaml import Loc


class Kind(Enum):
    """What a file must be."""

    SECRET = auto()
    CERTIFICATES = auto()
    KNOWN_HOSTS = auto()
    TEXT = auto()


class Reference(NamedTuple):
    """One file that a gateway or cluster names, at `loc` below it."""

    loc: Loc
    path: Path
    kind: Kind


_FIELDS = (
    ("identity_files", Kind.SECRET),
    ("certificate_files", Kind.TEXT),
    ("passphrase_file", Kind.SECRET),
    ("known_hosts", Kind.KNOWN_HOSTS),
    ("ssh_config", Kind.TEXT),
    ("tls.ca_file", Kind.CERTIFICATES),
    ("probe.token_file", Kind.SECRET),
    ("probe.client_cert", Kind.CERTIFICATES),
    ("probe.client_key", Kind.SECRET),
)


def references(section: GatewayConfig | ClusterConfig) -> Iterator[Reference]:
    """The files that one gateway or cluster names."""
    for dotted, kind in _FIELDS:
        keys = tuple(dotted.split("."))
        value: object = section
        for key in keys:
            value = getattr(value, key, None)
        if isinstance(value, Path):
            yield Reference(keys, value, kind)
        elif isinstance(value, tuple):
            yield from (Reference((*keys, index), path, kind) for index, path in enumerate(value))


def files(config: Config) -> tuple[Path, ...]:
    """Every file that `config` names, once, in its order. What an ssh_config names in turn is not among them."""
    sections: tuple[GatewayConfig | ClusterConfig, ...] = (*config.gateways.values(), *config.clusters.values())
    return tuple(dict.fromkeys(reference.path for section in sections for reference in references(section)))


def fingerprint(config: Config) -> dict[Path, bytes]:
    """SHA-256 of each file's contents (empty if it cannot be read), to be compared with an earlier one by `diff.changed`."""
    return {path: _digest(path) for path in files(config)}


def _digest(path: Path) -> bytes:
    try:
        data, _ = read_bytes(path, limit=MAX_CREDENTIAL_BYTES)
    except Unusable:
        return b""
    return hashlib.sha256(data).digest()


def check(config: Config) -> Iterator[Finding]:
    """Every file that is missing, unreadable, readable by too many, or not what it should be. Its contents are never shown."""
    for name, gateway in config.gateways.items():
        for loc, path, kind in references(gateway):
            yield from _check_file(("gateways", name, *loc), path, kind)
    for name, cluster in config.clusters.items():
        for loc, path, kind in references(cluster):
            yield from _check_file(("clusters", name, *loc), path, kind)


def _check_file(loc: Loc, path: Path, kind: Kind) -> Iterator[Finding]:
    try:
        data, status = read_bytes(path, limit=MAX_CREDENTIAL_BYTES)
    except Unusable as exc:
        yield Finding(loc, f"{path} {exc}", exc.hint)
        return
    if kind is Kind.SECRET and _too_open(path, status):
        mode = stat.S_IMODE(status.st_mode)
        yield Finding(
            loc,
            f"{path} is a secret that others may read (mode {mode:04o})",
            f"chmod {'600' if status.st_uid == os.geteuid() else 'o='} {path}",
        )
    elif kind is Kind.CERTIFICATES:
        try:
            x509.load_pem_x509_certificates(data)
        except ValueError:
            yield Finding(loc, f"{path} holds no PEM certificate", "it should start with -----BEGIN CERTIFICATE-----")
    elif kind is Kind.KNOWN_HOSTS:
        bad = [number for number, line in enumerate(data.splitlines(), 1) if not _is_known_host(line)]
        if bad:
            more = f" (lines like it: {len(bad)})" if bad[1:] else ""
            hint = "a line reads: HOST[,HOST...] KEYTYPE BASE64; remove it, or take it anew from ssh-keyscan"
            yield Finding(loc, f"{path}:{bad[0]} is not a known_hosts line{more}", hint)


def _too_open(path: Path, status: os.stat_result) -> bool:
    """OpenSSH's rule (our file, any bit for group or others), and nobody else's file may be readable by all.

    systemd shows credentials with mode 0440 in a folder that only the service can enter (systemd.exec(5), LoadCredential=).
    """
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    if credentials and path.is_relative_to(credentials) and ".." not in path.parts:
        return False
    return bool(status.st_mode & (0o077 if status.st_uid == os.geteuid() else 0o007))


def _is_known_host(line: bytes) -> bool:
    """Whether sshd(8), SSH_KNOWN_HOSTS FILE FORMAT, allows `line`. The key names its type again, at the start of its blob."""
    fields = line.split()
    if not fields or fields[0].startswith(b"#"):
        return True
    if fields[0] in {b"@cert-authority", b"@revoked"}:
        del fields[0]
    if len(fields) < 3 or fields[0].startswith(b"@"):
        return False
    pattern, kind, key = fields[:3]
    try:
        blob = binascii.a2b_base64(key, strict_mode=True)
        if pattern.startswith(b"|"):
            _, version, salt, digest = pattern.split(b"|")
            return version == b"1" and len(binascii.a2b_base64(salt)) == len(binascii.a2b_base64(digest)) == 20
    except ValueError:
        return False
    return blob.startswith(len(kind).to_bytes(4) + kind)
