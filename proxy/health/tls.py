"""Reads a cluster's CA, certificate, key and token for a probe, and explains a failed handshake.

OpenSSL does the handshake, with the ciphers that Go offers. `proxy/health/chain.py` verifies the server's
certificates before OpenSSL sends ours. Files are read in a thread, and again when they have changed.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from proxy.config import certificates
from proxy.config.files import MAX_CREDENTIAL_BYTES
from proxy.config.model import ClusterConfig
from proxy.health.anchors import Anchors
from proxy.health.chain_rules import Refused
from proxy.health.result import Failure, Result
from proxy.runtime.blocking import Hangs, Place, doing
from proxy.runtime.endpoint import Endpoint

MAX_TOKEN: Final = 64 * 1024
_TOKEN: Final = re.compile(r"[\x21-\x7e]+")
_CACHED: Final = 1024  # one for each cluster with a CA or certificate of its own, and those of replaced files

# As in Go's crypto/tls, defaults.go: only ciphers with forward secrecy. SECLEVEL=1 refuses keys and
# signatures that 2^80 steps break (SHA-1, RSA below 1024 bits).
_CIPHERS: Final = (
    "ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA:ECDHE-RSA-AES128-SHA:ECDHE-RSA-AES256-SHA"
    ":@SECLEVEL=1"
)
# As in Go's crypto/x509, root_linux.go: the first of the files that exists, and every file of the folders.
_SYSTEM_FILES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Gentoo
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # RHEL
    "/etc/ssl/cert.pem",  # Alpine
)
_SYSTEM_FOLDERS: Final = ("/etc/ssl/certs", "/etc/pki/tls/certs")

_HANGS: Final = (
    "its disk, or the server it is mounted from, does not answer; probes go on by themselves when it does"
)
_NO_CA: Final = (
    "set tls.ca_file to a file with the cluster's CA: certificate-authority-data of its "
    "kubeconfig, base64-decoded"
)
_FOR_ALL: Final = "kubectl refuses it, too: the server needs another one"

_LOADING: Final = {
    "KEY_VALUES_MISMATCH": "is another certificate's key",
    "CA_MD_TOO_WEAK": "is signed by an algorithm that API servers refuse (SHA-1, MD5)",
    "EE_KEY_TOO_SMALL": "has a key that is too short",
}
"""OpenSSL's reasons not to load a certificate."""

# Alerts about our certificate (RFC 8446 6.2), by OpenSSL 3's names.
_CLIENT_CERT_ALERTS: Final = frozenset(
    {
        "TLSV13_ALERT_CERTIFICATE_REQUIRED",
        "TLSV1_ALERT_UNKNOWN_CA",
        "TLSV1_ALERT_ACCESS_DENIED",
        "SSLV3_ALERT_BAD_CERTIFICATE",
        "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        "SSLV3_ALERT_CERTIFICATE_REVOKED",
        "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
    }
)


@dataclass(frozen=True, slots=True)
class Identity:
    """The trusted CAs, and our own certificate."""

    context: ssl.SSLContext
    anchors: Anchors
    expiries: tuple[tuple[str, float], ...]
    """When they expire: (`ca` | `client`, Unix time). `ca` is the first CA to expire."""


class Contexts:
    """A cache of the identities of all clusters. A changed file makes it build one again. Thread-safe."""

    def __init__(self) -> None:
        self._load_trust = lru_cache(maxsize=_CACHED)(_load_trust)
        self._load_context = lru_cache(maxsize=_CACHED)(_load_context)

    async def load(self, config: ClusterConfig, place: Place | None = None) -> tuple[Identity, str | None]:
        """The identity and the bearer token of this cluster, from its files as they are now.

        They are read in `place`. Raises Failure (`credentials_unusable`); it names the key and the file.
        """
        place = place or Place("files of a probe")
        try:
            return await place.run(self._load, config, timeout=config.probe.timeout / 2)
        except Hangs as exc:
            raise Failure(Result.CREDENTIALS_UNUSABLE, str(exc), hint=_HANGS) from exc

    def _load(self, config: ClusterConfig) -> tuple[Identity, str | None]:
        probe = config.probe
        anchors, ca_expiries = self._load_trust(_stamp("tls.ca_file", config.tls.ca_file))
        context, client_expiries = self._load_context(
            _stamp("probe.client_cert", probe.client_cert), _stamp("probe.client_key", probe.client_key)
        )
        identity = Identity(context, anchors, (*ca_expiries, *client_expiries))
        return identity, _read_token(probe.token_file) if probe.token_file else None


def distrusted(error: Refused, config: ClusterConfig, server: Endpoint) -> Failure:
    """The failure for refused certificates: it says whether the server's are wrong or our CA file."""
    certificate = f"the certificate of {server}"
    if error.result is not Result.TLS_UNTRUSTED or error.for_all:
        return Failure(error.result, f"{certificate} {error}", hint=_FOR_ALL if error.for_all else None)
    trust = (
        f"tls.ca_file {config.tls.ca_file}"
        if config.tls.ca_file
        else "the system's CA store (no tls.ca_file is given)"
    )
    return Failure(
        error.result,
        f"reached, but {certificate} is not trusted by {trust}: it {error}",
        hint=None if config.tls.ca_file else _NO_CA,
    )


def classify(error: ssl.SSLError, config: ClusterConfig, server: Endpoint) -> Failure:
    """The failure for a handshake that failed, or for a TLS alert after it."""
    if isinstance(error, ssl.SSLEOFError | ssl.SSLSyscallError | ssl.SSLZeroReturnError):
        return Failure(Result.CLOSED, "the connection ended during the TLS handshake")
    reason = error.reason or (error.args[-1] if error.args else "unknown error")
    words = str(reason).replace("_", " ").lower()
    if error.reason in _CLIENT_CERT_ALERTS:
        shown = config.probe.client_cert or "none was shown: probe.client_cert is not given"
        return Failure(
            Result.TLS_CLIENT_CERT, f"the server does not accept our client certificate ({shown}): {words}"
        )
    return Failure(Result.TLS_FAILED, f"TLS with {server} failed: {words}")


_Stamp = tuple[str, Path, int, int, int] | None


def _stamp(key: str, path: Path | None) -> _Stamp:
    """The state of a file: its key, path, inode, modification time in ns, and size.

    The file is opened for that. So a file that this user may not read is reported, though it is in the cache.
    """
    if path is None:
        return None
    doing(f"reading {key} {path}")
    try:
        with path.open("rb") as file:
            stat = os.fstat(file.fileno())
    except OSError as exc:
        raise _unusable(key, path, exc.strerror) from exc
    return key, path, stat.st_ino, stat.st_mtime_ns, stat.st_size


def _load_trust(ca: _Stamp) -> tuple[Anchors, tuple[tuple[str, float], ...]]:
    if ca is None:
        doing("reading the system's CA store")
        return _system_anchors(), ()
    key, path, *_ = ca
    try:
        found = certificates.load_pem(_read(key, path))
    except ValueError as exc:
        raise _unusable(key, path, str(exc)) from exc
    return Anchors(found), (("ca", min(one.not_valid_after_utc.timestamp() for one in found)),)


@cache
def _system_anchors() -> Anchors:
    """The system's CAs. As in Go they are read once: a change takes effect when the process starts again."""
    files = [Path(os.environ.get("SSL_CERT_FILE") or next(filter(os.path.exists, _SYSTEM_FILES), os.devnull))]
    for folder in (os.environ.get("SSL_CERT_DIR") or os.pathsep.join(_SYSTEM_FOLDERS)).split(os.pathsep):
        files += [path for path in Path(folder or os.devnull).glob("*") if not _is_alias(path)]
    return Anchors(certificate for path in files for certificate in _readable(path))


def _is_alias(path: Path) -> bool:
    """Whether it is a link to a file in the same folder. OpenSSL makes such links, named by a hash."""
    return path.is_symlink() and len(path.readlink().parts) == 1


def _readable(path: Path) -> Iterator[x509.Certificate]:
    try:
        yield from certificates.load_pem(path.read_bytes())
    except (OSError, ValueError):
        return  # a folder, a key or a broken link: Go skips these, too


def _load_context(certificate: _Stamp, key: _Stamp) -> tuple[ssl.SSLContext, tuple[tuple[str, float], ...]]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # `chain.verify` does both
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # no other certificate later
    context.set_ciphers(_CIPHERS)
    if not certificate:
        return context, ()
    doing(f"reading {certificate[0]} {certificate[1]} and its key")
    try:
        # OpenSSL would ask on the terminal for an encrypted key's passphrase. An empty one fails at once.
        context.load_cert_chain(certificate[1], key[1] if key else None, password=str)
        leaf = x509.load_pem_x509_certificate(_read(certificate[0], certificate[1]))
        certificates.load_der(
            leaf.public_bytes(Encoding.DER)
        )  # a client in Go could not use one it cannot read
    except (OSError, ValueError) as exc:
        reason = exc.reason if isinstance(exc, ssl.SSLError) else ""
        why = _LOADING.get(reason, "no PEM certificate with its key, unencrypted")
        where = f"{certificate[1]} with probe.client_key {key[1]}" if key else certificate[1]
        raise _unusable(certificate[0], where, why) from exc
    return context, (("client", leaf.not_valid_after_utc.timestamp()),)


def _read(key: str, path: Path) -> bytes:
    doing(f"reading {key} {path}")
    try:
        with path.open("rb") as file:
            return file.read(MAX_CREDENTIAL_BYTES)
    except OSError as exc:
        raise _unusable(key, path, exc.strerror) from exc


def _read_token(path: Path) -> str:
    """The bearer token in `path`. It is never cached: the kubelet replaces projected tokens every hour."""
    doing(f"reading probe.token_file {path}")
    try:
        with path.open("rb") as file:
            token = file.read(MAX_TOKEN).decode("ascii", "replace").strip()
    except OSError as exc:
        raise _unusable("probe.token_file", path, exc.strerror) from exc
    if not _TOKEN.fullmatch(token):  # the message does not quote it: it may be a secret with a typing error
        raise _unusable("probe.token_file", path, "expected one token of printable ASCII")
    return token


def _unusable(key: str, path: Path | str, why: str | None) -> Failure:
    return Failure(Result.CREDENTIALS_UNUSABLE, f"{key} {path}: {why}")
