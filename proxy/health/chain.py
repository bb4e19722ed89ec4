"""Verifies a server's certificates by the rules of Go's crypto/x509, so that a probe accepts exactly the
servers that kubectl accepts.

    leaf (valid now? for this name? for servers?) -> issuer -> ... -> any certificate of the CA file

OpenSSL has other rules, and neither set is stricter. OpenSSL wants a self-signed certificate at the end,
finds issuers by key identifiers, tries only one issuer of a name, and checks the key usage of a leaf. Go
wants names that are equal byte by byte, no SHA-1, no negative serial number and no unknown critical
extension. Each rule (`chain_rules.py`, `name_constraints.py`) is one of verify.go or parser.go in Go, and the
tests compare with a real kubectl. There is one difference to Go: policy constraints, and constraints on
e-mail addresses and URIs, are refused here.

cryptography checks the signatures. Its own verifier (`cryptography.x509.verification`) has the rules of the
web: whatever extension policy it is given, it refuses roots of version 1, of P-224 and of RSA with 1024 bits,
and any Ed25519, all of which Go accepts. Its errors have no kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from proxy.config.certificates import load_der
from proxy.health import server_names
from proxy.health.anchors import Anchors, Certificate
from proxy.health.chain_rules import (
    MAX_RSA_BITS,
    Refused,
    refused_by_all,
    require_good_algorithm,
    require_issuer,
    require_key_length,
    require_valid,
)
from proxy.health.name_constraints import ADDRESSES, require_allowed_names
from proxy.health.result import Result
from proxy.runtime.text import printable

MAX_CHECKS: Final = 32
"""The most signatures that are checked for one server: each may block the event loop for a millisecond.

Go allows 100. Usually there are two.
"""


def verify(chain: Sequence[bytes], anchors: Anchors, name: str, now: datetime) -> Certificate:
    """The server's own certificate: the first of `chain`, which is DER in the order that the server sent.

    Raises Refused if it is not for `name`, or if no path leads from it to an anchor.
    """
    leaf, *others = [_read(der, number) for number, der in enumerate(chain, 1)]
    require_valid(leaf, now)
    ips = [ip for ip in leaf.names.get_values_for_type(x509.IPAddress) if isinstance(ip, ADDRESSES)]
    if not server_names.matches(name, dns=leaf.names.get_values_for_type(x509.DNSName), ips=ips):
        raise Refused(Result.TLS_NAME_MISMATCH, f"does not name {name}")
    if not isinstance(leaf.key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey):
        raise refused_by_all("has a key of a kind that TLS does not know")
    require_key_length(leaf)
    search = _Search(others, anchors, now)
    for path in search.paths([leaf]):
        try:
            _require_server_usage(path)
            require_allowed_names(path)
        except Refused as refused:
            search.note(refused)
        else:
            return leaf
    assert search.first_refusal  # noqa: S101 - every path that fails leaves one
    raise search.first_refusal


def _read(der: bytes, number: int) -> Certificate:
    which = "" if number == 1 else f"comes with another (number {number}) that "
    try:
        certificate = Certificate(load_der(der))
    except ValueError as exc:
        raise refused_by_all(f"{which}cannot be read: {printable(str(exc))}") from exc
    key = certificate.key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size > MAX_RSA_BITS:
        raise refused_by_all(f"{which}has an RSA key of {key.key_size} bits, which is too long")
    return certificate


class _Search:
    """Searches for a path from the leaf to an anchor. It checks at most `MAX_CHECKS` signatures."""

    def __init__(self, others: Sequence[Certificate], anchors: Anchors, now: datetime) -> None:
        self._others = others
        self._anchors = anchors
        self._now = now
        self._checks = 0
        self.first_refusal: Refused | None = None

    def note(self, refused: Refused) -> None:
        """Remember why a path is refused. Only the first refusal is reported."""
        self.first_refusal = self.first_refusal or refused

    def paths(self, path: list[Certificate]) -> Iterator[list[Certificate]]:
        """Every path to an anchor that begins with `path`."""
        child = path[-1]
        if len(path) == 1 and child in self._anchors:
            yield path
            return
        try:
            require_good_algorithm(child)
        except Refused as refused:
            self.note(_about_first(path, refused))
            return
        trusted = self._anchors.named(child.issuer)
        sent = [one for one in self._others if one.subject == child.issuer]
        if not trusted and not sent:
            issuer = printable(child.parsed.issuer.rfc4514_string())
            self.note(Refused(Result.TLS_UNTRUSTED, f"{_relation(path)} {issuer}, not found there"))
        for parent in _best_first(child, trusted):
            if self._is_issued_by(path, parent, is_anchor=True):
                yield [*path, parent]
        for parent in _best_first(child, sent):
            if self._is_issued_by(path, parent, is_anchor=False):
                yield from self.paths([*path, parent])

    def _is_issued_by(self, path: list[Certificate], parent: Certificate, *, is_anchor: bool) -> bool:
        if any(
            one.subject == parent.subject and one.key == parent.key and one.names == parent.names
            for one in path
        ):
            self.note(Refused(Result.TLS_UNTRUSTED, f"{_relation(path)} {parent}, not found there"))
            return False
        if self._checks >= MAX_CHECKS:
            self.note(refused_by_all(f"comes with more than {MAX_CHECKS} signatures to check"))
            return False
        self._checks += 1
        try:
            require_issuer(parent, path, is_anchor=is_anchor)
            require_valid(parent, self._now)
        except Refused as refused:
            self.note(_about_first([*path, parent], refused))
            return False
        return True


def _relation(path: Sequence[Certificate]) -> str:
    return "is signed by" if len(path) == 1 else "leads to"


def _about_first(path: Sequence[Certificate], refused: Refused) -> Refused:
    """The refusal of the last certificate of `path`, as a sentence about the first one."""
    if len(path) == 1:
        return refused
    return Refused(refused.result, f"is signed by {path[-1]}, which {refused}", for_all=refused.for_all)


def _best_first(child: Certificate, parents: Sequence[Certificate]) -> Sequence[Certificate]:
    """`parents`, sorted: those come first whose key identifier is the one that `child` names.

    The others are tried, too: the identifier is only a hint (RFC 5280 4.2.1.1).
    """
    if len(parents) < 2:
        return parents
    hint = child.extension(x509.AuthorityKeyIdentifier)

    def is_another(parent: Certificate) -> bool:
        identifier = parent.extension(x509.SubjectKeyIdentifier)
        return hint is None or identifier is None or identifier.digest != hint.key_identifier

    return sorted(parents, key=is_another)


def _require_server_usage(path: Sequence[Certificate]) -> None:
    for length, certificate in enumerate(path, 1):
        if not certificate.is_for_servers:
            raise _about_first(path[:length], refused_by_all("is not for servers (extended key usage)"))
