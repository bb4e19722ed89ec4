"""What a probe trusts and shows: SSL contexts from the configuration's files, and the meaning of a failed handshake.

Files are read when they changed, in a thread: building a context from the system's store takes tens of milliseconds.
"""

from __future__ import annotations

import os
import re
import ssl
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from cryptography import x509

from proxy.blocking import Hangs, Place, doing
from proxy.config.model import ClusterConfig
from proxy.health.result import Failure, Result

MAX_TOKEN: Final = 64 * 1024
_TOKEN: Final = re.compile(r"[\x21-\x7e]+")
_CACHED: Final = 1024  # contexts; one per cluster with a CA of its own, and those of files since replaced

# X509_V_ERR_* of OpenSSL's x509_vfy.h: https://docs.openssl.org/3.0/man3/X509_STORE_CTX_get_error/#error-codes
# Every other code (2, 18-21, 24, 26...) says that no valid chain leads to the CA.
_VERIFY_CODES: Final = {
    9: (Result.TLS_NOT_YET_VALID, "is not valid yet"),
    10: (Result.TLS_EXPIRED, "has expired"),
    62: (Result.TLS_NAME_MISMATCH, "does not name"),
    64: (Result.TLS_NAME_MISMATCH, "does not name"),
}
_UNTRUSTED: Final = (Result.TLS_UNTRUSTED, "is not trusted")
_HANGS: Final = "its disk, or the server it is mounted from, does not answer; probes go on by themselves when it does"
_NO_CA: Final = "set tls.ca_file to a file with the cluster's CA: certificate-authority-data of its kubeconfig, base64-decoded"

# Alerts by which a server says what it thinks of our certificate (RFC 8446 6.2), as OpenSSL 3 names them.
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
    """A context, and when the certificates in it end: (`ca` | `client`, Unix time); of a bundle of CAs the first to end."""

    context: ssl.SSLContext
    expiries: tuple[tuple[str, float], ...]


class Contexts:
    """The contexts of all clusters, built once per state of their files. Safe in threads."""

    def __init__(self) -> None:
        self._build = lru_cache(maxsize=_CACHED)(_build)

    async def load(self, config: ClusterConfig, place: Place | None = None) -> tuple[Identity, str | None]:
        """The context and the bearer token for a probe of this cluster, files as they are now, read in the cluster's own `place`.

        Raises Failure (`credentials_unusable`) naming the key and the file.
        """
        place = place or Place("files of a probe")
        try:
            return await place.run(self._load, config, timeout=config.probe.timeout / 2)
        except Hangs as exc:
            raise Failure(Result.CREDENTIALS_UNUSABLE, str(exc), hint=_HANGS) from exc

    def _load(self, config: ClusterConfig) -> tuple[Identity, str | None]:
        probe = config.probe
        stamps = (
            _stamp("tls.ca_file", config.tls.ca_file),
            _stamp("probe.client_cert", probe.client_cert),
            _stamp("probe.client_key", probe.client_key),
        )
        return self._build(*stamps), _read_token(probe.token_file) if probe.token_file else None


def server_name(config: ClusterConfig) -> str:
    """The name (or IP address) that the certificate must have."""
    return config.tls.server_name or config.api_servers[0].host.rstrip(".")


def classify(error: ssl.SSLError, config: ClusterConfig) -> Failure:
    """What a failed handshake, or an alert after it, means."""
    if isinstance(error, ssl.SSLCertVerificationError):
        result, verdict = _VERIFY_CODES.get(error.verify_code, _UNTRUSTED)
        name = server_name(config)
        certificate = f"the certificate of {config.api_servers[0]}"
        if result is Result.TLS_NAME_MISMATCH:
            return Failure(result, f"{certificate} {verdict} {name}")
        trust = config.tls.ca_file or "the system's CA store (no tls.ca_file is given)"
        where = f" by {trust}" if result is Result.TLS_UNTRUSTED else ""
        hint = None if config.tls.ca_file or result is not Result.TLS_UNTRUSTED else _NO_CA
        return Failure(result, f"{certificate} {verdict}{where}: {error.verify_message}", hint=hint)
    if isinstance(error, ssl.SSLEOFError | ssl.SSLSyscallError | ssl.SSLZeroReturnError):
        return Failure(Result.CLOSED, "the connection ended during the TLS handshake")
    reason = error.reason or (error.args[-1] if error.args else "unknown error")
    words = str(reason).replace("_", " ").lower()
    if error.reason in _CLIENT_CERT_ALERTS:
        shown = config.probe.client_cert or "none was shown: probe.client_cert is not given"
        return Failure(Result.TLS_CLIENT_CERT, f"the server does not accept our client certificate ({shown}): {words}")
    return Failure(Result.TLS_FAILED, f"TLS with {config.api_servers[0]} failed: {words}")


_Stamp = tuple[str, Path, int, int, int] | None


def _stamp(key: str, path: Path | None) -> _Stamp:
    """A file as it is now: what it is for, where, inode, modification time in ns, bytes. Opened, to name one that is not ours."""
    if path is None:
        return None
    doing(f"reading {key} {path}")
    try:
        with path.open("rb") as file:
            stat = os.fstat(file.fileno())
    except OSError as exc:
        raise _unusable(key, path, exc.strerror) from exc
    return key, path, stat.st_ino, stat.st_mtime_ns, stat.st_size


def _build(ca: _Stamp, certificate: _Stamp, key: _Stamp) -> Identity:
    doing(f"reading {ca[0]} {ca[1]}" if ca else "reading the system's CA store")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # CERT_REQUIRED and check_hostname from the start
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    expiries = []
    if ca:
        try:
            context.load_verify_locations(cafile=ca[1])
        except OSError as exc:
            raise _unusable(ca[0], ca[1], "holds no PEM certificates") from exc
        if ends := [ssl.cert_time_to_seconds(str(one["notAfter"])) for one in context.get_ca_certs()]:
            expiries.append(("ca", float(min(ends))))
    else:
        context.load_default_certs()
    if certificate:
        doing(f"reading {certificate[0]} {certificate[1]} and its key")
        try:
            # An encrypted key would ask on the terminal for its passphrase: answer with an empty one, which fails.
            context.load_cert_chain(certificate[1], key[1] if key else None, password=str)
            leaf = x509.load_pem_x509_certificate(certificate[1].read_bytes())
        except (OSError, ValueError) as exc:
            mismatch = isinstance(exc, ssl.SSLError) and exc.reason == "KEY_VALUES_MISMATCH"
            why = "is another certificate's key" if mismatch else "no PEM certificate with its key, unencrypted"
            where = f"{certificate[1]} with probe.client_key {key[1]}" if key else certificate[1]
            raise _unusable(certificate[0], where, why) from exc
        expiries.append(("client", leaf.not_valid_after_utc.timestamp()))
    return Identity(context, tuple(expiries))


def _read_token(path: Path) -> str:
    """A bearer token. The file is read each time: the kubelet replaces projected tokens about every hour."""
    doing(f"reading probe.token_file {path}")
    try:
        with path.open("rb") as file:
            token = file.read(MAX_TOKEN).decode("ascii", "replace").strip()
    except OSError as exc:
        raise _unusable("probe.token_file", path, exc.strerror) from exc
    if not _TOKEN.fullmatch(token):  # never quoted: it may be a secret with a slip in it
        raise _unusable("probe.token_file", path, "expected one token of printable ASCII")
    return token


def _unusable(key: str, path: Path | str, why: str | None) -> Failure:
    return Failure(Result.CREDENTIALS_UNUSABLE, f"{key} {path}: {why}")
