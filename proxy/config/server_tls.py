"""Loads an entry's certificate and key, and the CAs of its clients, into a TLS context."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

from proxy.config import certificates
from proxy.config.files import MAX_CREDENTIAL_BYTES, Unusable, read_bytes
from proxy.runtime.blocking import doing

_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""The ciphers for TLS 1.2: those with forward secrecy. All ciphers of TLS 1.3 have it."""

_LOADING: Final = {
    "KEY_VALUES_MISMATCH": "is another certificate's key",
    "BAD_PASSWORD_READ": "is encrypted",
    "BAD_DECRYPT": "is encrypted",
}
"""By OpenSSL's reason for refusing a key: the message."""
_KEY_HINT: Final = "give the key without a passphrase that belongs to the certificate in cert_file"


def load(cert_file: Path, key_file: Path, client_ca_file: Path | None) -> ssl.SSLContext:
    """The TLS context of an entry. With `client_ca_file`, each client must show a certificate of one of these
    CAs.

    It blocks. Raises Unusable.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    # In a resumed session the client shows no certificate, so a replaced CA would have no effect on it.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0
    doing(f"reading {cert_file} and {key_file}")
    try:
        context.load_cert_chain(cert_file, key_file, password=_no_passphrase)
    except (OSError, ValueError) as exc:
        reason = exc.reason if isinstance(exc, ssl.SSLError) else None
        why = _LOADING.get(reason or "", f"cannot be used with {cert_file}: {_reason(exc)}")
        raise Unusable(f"{key_file} {why}", _KEY_HINT) from exc
    if client_ca_file is not None:
        doing(f"reading {client_ca_file}")
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(cafile=client_ca_file)
        except (OSError, ValueError) as exc:
            raise Unusable(
                f"{client_ca_file} cannot be used: {_reason(exc)}", "give a PEM file of CAs"
            ) from exc
    return context


def ends(cert_file: Path, client_ca_file: Path | None) -> tuple[tuple[str, float], ...]:
    """When the entry's certificate expires, and when the last of its CAs expires: after that no client is
    accepted. In Unix time.

    Blocks. A file that cannot be read is left out; `load` reports it.
    """
    found = [(f"the certificate in {cert_file}", _ends(cert_file)[:1])]
    if client_ca_file is not None:
        found.append((f"every CA in {client_ca_file}", _ends(client_ca_file)))
    return tuple((what, max(times)) for what, times in found if times)


def _ends(path: Path) -> list[float]:
    try:
        found = certificates.load_pem(read_bytes(path, limit=MAX_CREDENTIAL_BYTES)[0])
    except (Unusable, ValueError):
        return []
    return [one.not_valid_after_utc.timestamp() for one in found]


def _no_passphrase() -> str:
    """Return an empty passphrase; otherwise OpenSSL would ask for one on the terminal."""
    return ""


def _reason(exc: Exception) -> str:
    if isinstance(exc, ssl.SSLError):
        return (exc.reason or "unknown").lower().replace("_", " ")
    return (exc.strerror or str(exc)) if isinstance(exc, OSError) else str(exc)
