"""Server names as Go's TLS takes them: how one is spelled in SNI, and which certificates are for it. Pure.

crypto/x509 (verify.go, VerifyHostname) and crypto/tls (handshake_client.go, hostnameInSNI). Not OpenSSL's
matching: that refuses `*.local`, and takes the common name where there is nothing else.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_LABEL: Final = re.compile(r"[a-z0-9_][a-z0-9_-]*", re.IGNORECASE | re.ASCII)


def address(name: str) -> Address | None:
    """The IP address that `name` is, in brackets or not.

    One with a zone is none: no certificate can hold it.
    """
    try:
        found = ipaddress.ip_address(name[1:-1] if name.startswith("[") and name.endswith("]") else name)
    except ValueError:
        return None
    if not isinstance(found, ipaddress.IPv6Address):
        return found
    return None if found.scope_id else found.ipv4_mapped or found


def in_sni(name: str) -> str | None:
    """What a client says of `name` before the certificate comes; addresses are not said (RFC 6066 3), nor a
    final dot.
    """
    host = name[1:-1] if name.startswith("[") and name.endswith("]") else name
    if address(host.partition("%")[0]):
        return None
    # Python does not send a leading dot, as Go does; servers tell no names by it.
    return None if host.startswith(".") else host.rstrip(".") or None


def matches(name: str, *, dns: Iterable[str], ips: Iterable[Address]) -> bool:
    """Whether a certificate with these names (subjectAltName) is for `name`."""
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
    """Whether `name` is `domain` or below it; only below, if that starts with a dot (RFC 5280 4.2.1.10).

    All are below `.`.

    `covered`: also where `name` is a wildcard that stands for it.
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
    if theirs[0] == "*":  # stands for the whole first label
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
    """ASCII only, as in the DNS: `str.lower` knows more letters."""
    return "".join(chr(ord(char) + 32) if "A" <= char <= "Z" else char for char in text)
