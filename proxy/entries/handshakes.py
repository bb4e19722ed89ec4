"""Messages for a client's failed TLS handshake with an entry. Pure."""

from __future__ import annotations

import ssl
from typing import Final

_OLD: Final = "it speaks no version of TLS that is accepted here: 1.2 and 1.3 are"

_WHY: Final = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it shows no certificate, which client_ca_file asks for",
    "UNSUPPORTED_PROTOCOL": _OLD,
    "WRONG_VERSION_NUMBER": _OLD,
    "VERSION_TOO_LOW": _OLD,
    "NO_PROTOCOLS_AVAILABLE": _OLD,
    "NO_SHARED_CIPHER": "it speaks none of the ciphers that are accepted here",
    "TLSV1_ALERT_UNKNOWN_CA": "it does not trust the CA of cert_file",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it does not accept the certificate in cert_file",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it does not accept the certificate in cert_file",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "it says that the certificate in cert_file has expired",
}
"""By OpenSSL's reason: the message. A reason with ALERT is an alert that the client sent (RFC 8446 6.2)."""


def why(error: ssl.SSLError) -> str:
    """The cause of `error` as a sentence about the client, for example `it shows no certificate`."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    reason = error.reason or "unknown"
    return _WHY.get(reason, f"OpenSSL says {reason.lower().replace('_', ' ')}")
