"""Compares server names by the rules of Go: what is sent as SNI, and which certificates match. Pure.

The rules are those of crypto/x509 (verify.go, VerifyHostname) and crypto/tls (handshake_client.go,
hostnameInSNI). OpenSSL's differ: it refuses `*.local`, and uses the common name of a certificate without
other names.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_LABEL: Final = re.compile(r"[a-z0-9_][a-z0-9_-]*", re.IGNORECASE | re.ASCII)


def address(name: str) -> Address | None:
    """`name` as an IP address, if it is one, with or without brackets.

    None for an address with a zone: no certificate can contain it.
    """
    try:
        found = ipaddress.ip_address(name[1:-1] if name.startswith("[") and name.endswith("]") else name)
    except ValueError:
        return None
    if not isinstance(found, ipaddress.IPv6Address):
        return found
    return None if found.scope_id else found.ipv4_mapped or found


def in_sni(name: str) -> str | None:
    """The SNI for `name`: without the dot at its end; None for an address (RFC 6066 3)."""
    host = name[1:-1] if name.startswith("[") and name.endswith("]") else name
    if address(host.partition("%")[0]):
        return None
    # Go sends a name that starts with a dot; Python cannot. No server chooses a certificate by such a name.
    return None if host.startswith(".") else host.rstrip(".") or None


def matches(name: str, *, dns: Iterable[str], ips: Iterable[Address]) -> bool:
    """Whether a certificate with these names (subjectAltName) matches `name`."""
    if wanted := address(name):
        return any((getattr(ip, "ipv4_mapped", None) or ip) == wanted for ip in ips)
    host = name.removesuffix(".")
    return any(
        _matches(pattern, host)
        if _is_hostname(host) and _is_hostname(pattern, pattern=True)
        else _equals(pattern, name)
        for pattern in dns
    )


def is_below(name: str, domain: str, *, covered: bool) -> bool:
    """Whether `name` is `domain` or below it (RFC 5280 4.2.1.10).

    If `domain` starts with a dot, `name` must be below it. Every name is below `.`.
    `covered`: a wildcard `name` that matches `domain` counts, too.
    """
    ours, theirs = _lower(name).split("."), _lower(domain).split(".")
    if theirs in ([""], ["", ""]):
        return True
    if not theirs[0]:
        return len(ours) >= len(theirs) and ours[-len(theirs) + 1 :] == theirs[1:]
    if covered and ours[0] == "*" and len(ours) == len(theirs) and ours[1:] == theirs[1:]:
        return True
    return ours[-len(theirs) :] == theirs


def _matches(pattern: str, host: str) -> bool:
    theirs, ours = _lower(pattern).split("."), _lower(host).split(".")
    if theirs[0] == "*":  # it matches any first label
        return len(theirs) == len(ours) and theirs[1:] == ours[1:]
    return theirs == ours


def _equals(pattern: str, name: str) -> bool:
    return _lower(pattern) == _lower(name) not in {"", "."}


def _is_hostname(name: str, *, pattern: bool = False) -> bool:
    labels = name.split(".")
    if pattern and labels[0] == "*" and len(labels) > 1:
        labels = labels[1:]
    return all(map(_LABEL.fullmatch, labels))


def _lower(text: str) -> str:
    """`text` in lower case as in the DNS: ASCII letters only. `str.lower` also changes other letters."""
    return "".join(chr(ord(char) + 32) if "A" <= char <= "Z" else char for char in text)
