"""What a TLS client certificate is called in rules: `cert:` and a name of its subjectAltName. Pure.

    cert:ci.example.com                 DNS, in lower case
    cert:spiffe://example.com/ns/argo   URI
    cert:ops@example.com                email
    cert:10.0.0.9  cert:fd00::9         IP address, in its shortest form

A rule does not say which kind it means. So a name counts only if it looks like its kind and like no other:
a CA that signs any DNS name must not give away the address 10.0.0.9 or the URI of a service by that. The
common name does not count (RFC 9525 2), nor does a DNS name with `*`: it names no client.
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
"""Kinds of names, as `ssl` calls them, and how they look."""


def identities_of(certificate: Mapping[str, object] | None) -> frozenset[str]:
    """The names of a certificate as `SSLObject.getpeercert()` returns it.

    That is empty unless the certificate was verified, and so is this.
    """
    names = (certificate or {}).get("subjectAltName", ())
    if not isinstance(names, tuple):
        return frozenset()
    found = {
        _shown(*name) for name in names if len(name) == 2 and all(isinstance(part, str) for part in name)
    }
    return frozenset(f"cert:{name}" for name in found if name)


def _shown(kind: str, name: str) -> str:
    """`name` as rules have it; empty if it does not count."""
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
