"""The identities of a TLS client certificate in `allow` rules: `cert:` and a name in its subjectAltName.
Pure.

    cert:ci.example.com                 DNS, in lower case
    cert:spiffe://example.com/ns/argo   URI
    cert:ops@example.com                email
    cert:10.0.0.9  cert:fd00::9         IP address, in its shortest form

A rule does not say which kind of name it means. So a name counts only if it has the form of its own kind and
of no other kind. Otherwise a CA that signs any DNS name could sign the DNS name `10.0.0.9`, and its owner
would pass for that address. The common name does not count (RFC 9525 2), and neither does a DNS name with
`*`, which does not name one client.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Final

from proxy.config.allow import certificate_name

_DNS: Final = r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*"
_LOOKS: Final = {
    "DNS": re.compile(_DNS, re.IGNORECASE),
    "URI": re.compile(r"[a-z][a-z0-9+.-]*:[!-~]+", re.IGNORECASE),
    "email": re.compile(rf"[^\s:@/]+@{_DNS}", re.IGNORECASE),
    "IP Address": re.compile(r"[0-9a-f.:]+", re.IGNORECASE),
}
"""By the `ssl` module's word for a kind of name: the form that such a name must have."""


def identities_of(certificate: Mapping[str, object] | None) -> frozenset[str]:
    """The identities in a certificate as `SSLObject.getpeercert()` returns it.

    For a certificate that was not verified, `getpeercert()` returns nothing, and so does this.
    """
    names = (certificate or {}).get("subjectAltName", ())
    if not isinstance(names, tuple):
        return frozenset()
    found = {
        _shown(*name) for name in names if len(name) == 2 and all(isinstance(part, str) for part in name)
    }
    return frozenset(f"cert:{name}" for name in found if name)


def _shown(kind: str, name: str) -> str:
    """`name` as rules write it; empty if it does not count."""
    looks = _LOOKS.get(kind)
    if looks is None or not name.isascii() or not name.isprintable() or not looks.fullmatch(name):
        return ""
    return certificate_name(name) if (kind == "IP Address") == _is_address(name) else ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
