"""Verifies a server's certificates by the rules of Go's crypto/x509, so that a probe says `up` where kubectl
would accept the server.

leaf (is it for the name, in time, for servers?) -> issuer -> ... -> any certificate of the CA file

OpenSSL decides differently, in both directions. It wants a self-signed certificate at the end, finds issuers
by key identifiers, tries only one issuer of a name, and checks the key usage of a leaf. Go wants names that
are equal byte by byte, no SHA-1, no negative serial number and no unknown critical extension. Each rule here
is one of verify.go or parser.go in Go, and the tests compare with a real kubectl. cryptography checks the
signatures. Go accepts policy constraints, and constraints on e-mail addresses and URIs; this refuses them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import ExtensionOID, SignatureAlgorithmOID

from proxy.config.certificates import is_domain, load_der
from proxy.health import server_names
from proxy.health.anchors import Anchors, Certificate
from proxy.health.result import Result
from proxy.runtime.text import printable

MAX_CHECKS: Final = 32
"""How many signatures are checked for one server at most: each may hold the loop for a millisecond.

Go allows 100. Two are usual.
"""
MAX_COMPARISONS: Final = 10_000
"""Comparisons of a name with a constraint: a server chooses how many of both there are (CVE-2025-58187)."""
MIN_RSA_BITS: Final = 1024
MAX_RSA_BITS: Final = 8192

_SIGNATURES: Final = frozenset(
    {
        SignatureAlgorithmOID.RSA_WITH_SHA256,
        SignatureAlgorithmOID.RSA_WITH_SHA384,
        SignatureAlgorithmOID.RSA_WITH_SHA512,
        SignatureAlgorithmOID.ECDSA_WITH_SHA256,
        SignatureAlgorithmOID.ECDSA_WITH_SHA384,
        SignatureAlgorithmOID.ECDSA_WITH_SHA512,
        SignatureAlgorithmOID.ED25519,
    }
)
_PSS_HASHES: Final = frozenset({"sha256", "sha384", "sha512"})
_UNDERSTOOD: Final = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.NAME_CONSTRAINTS,
        ExtensionOID.CRL_DISTRIBUTION_POINTS,
        ExtensionOID.CERTIFICATE_POLICIES,
    }
)
"""The extensions that may be critical."""


_ADDRESSES: Final = (ipaddress.IPv4Address, ipaddress.IPv6Address)
_CONSTRAINED: Final = (x509.DNSName, x509.IPAddress, x509.RFC822Name, x509.UniformResourceIdentifier)


class Refused(Exception):
    """The certificates are not accepted. `str()` says why, as a predicate of the first.

    `for_all`: no client written in Go accepts them, whatever CA it trusts.
    """

    def __init__(self, result: Result, words: str, *, for_all: bool = False) -> None:
        super().__init__(words)
        self.result = result
        self.for_all = for_all


def verify(chain: Sequence[bytes], anchors: Anchors, name: str, now: datetime) -> Certificate:
    """The first of `chain` (DER, as the server sent them), if it is for `name` and leads to an anchor.

    Raises Refused.
    """
    leaf, *others = [_read(der, number) for number, der in enumerate(chain, 1)]
    _be_valid(leaf, now)
    ips = [ip for ip in leaf.names.get_values_for_type(x509.IPAddress) if isinstance(ip, _ADDRESSES)]
    if not server_names.matches(name, dns=leaf.names.get_values_for_type(x509.DNSName), ips=ips):
        raise Refused(Result.TLS_NAME_MISMATCH, f"does not name {name}")
    if not isinstance(leaf.key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey):
        raise _useless("has a key of a kind that TLS does not know")
    _be_long_enough(leaf)
    search = _Search(others, anchors, now)
    for path in search.paths([leaf]):
        try:
            _be_for_servers(path)
            _keep_constraints(path)
        except Refused as refused:
            search.complain(refused)
        else:
            return leaf
    assert search.complaint  # noqa: S101 - every path that fails leaves one
    raise search.complaint


def _useless(words: str) -> Refused:
    return Refused(Result.TLS_UNTRUSTED, words, for_all=True)


def _read(der: bytes, number: int) -> Certificate:
    which = "" if number == 1 else f"comes with another (number {number}) that "
    try:
        certificate = Certificate(load_der(der))
    except ValueError as exc:
        raise _useless(f"{which}cannot be read: {printable(str(exc))}") from exc
    key = certificate.key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size > MAX_RSA_BITS:
        raise _useless(f"{which}has an RSA key of {key.key_size} bits, which is too long")
    return certificate


def _be_long_enough(certificate: Certificate) -> None:
    key = certificate.key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < MIN_RSA_BITS:
        raise _useless(f"has an RSA key of {key.key_size} bits, which is too short")


def _be_valid(certificate: Certificate, now: datetime) -> None:
    for extension in certificate.parsed.extensions:
        if extension.critical and not _is_understood(extension.value):
            raise _useless(
                f"has a critical extension that Go does not understand ({extension.oid.dotted_string})"
            )
    if now < certificate.parsed.not_valid_before_utc:
        raise Refused(Result.TLS_NOT_YET_VALID, "is not valid yet")
    if now > certificate.parsed.not_valid_after_utc:
        raise Refused(Result.TLS_EXPIRED, "has expired")


def _is_understood(value: x509.ExtensionType) -> bool:
    match value:
        case x509.NameConstraints():
            return all(
                isinstance(one, _CONSTRAINED)
                for one in (*(value.permitted_subtrees or ()), *(value.excluded_subtrees or ()))
            )
        case x509.SubjectAlternativeName():
            return any(isinstance(one, _CONSTRAINED) for one in value)
        case _:
            return value.oid in _UNDERSTOOD


class _Search:
    """Looks for a path from the leaf to an anchor, with at most `MAX_CHECKS` signatures checked."""

    def __init__(self, others: Sequence[Certificate], anchors: Anchors, now: datetime) -> None:
        self._others = others
        self._anchors = anchors
        self._now = now
        self._checks = 0
        self.complaint: Refused | None = None

    def complain(self, refused: Refused) -> None:
        """Remember what was wrong with a path. The first complaint is the one that is reported."""
        self.complaint = self.complaint or refused

    def paths(self, path: list[Certificate]) -> Iterator[list[Certificate]]:
        """Every continuation of `path` to an anchor."""
        child = path[-1]
        if len(path) == 1 and child in self._anchors:
            yield path
            return
        try:
            _be_signed_well(child)
        except Refused as refused:
            self.complain(_above(path, refused))
            return
        trusted = self._anchors.named(child.issuer)
        sent = [one for one in self._others if one.subject == child.issuer]
        if not trusted and not sent:
            issuer = printable(child.parsed.issuer.rfc4514_string())
            self.complain(Refused(Result.TLS_UNTRUSTED, f"{_leading(path)} {issuer}, not found there"))
        for parent in _best_first(child, trusted):
            if self._leads(path, parent, is_anchor=True):
                yield [*path, parent]
        for parent in _best_first(child, sent):
            if self._leads(path, parent, is_anchor=False):
                yield from self.paths([*path, parent])

    def _leads(self, path: list[Certificate], parent: Certificate, *, is_anchor: bool) -> bool:
        if any(
            one.subject == parent.subject and one.key == parent.key and one.names == parent.names
            for one in path
        ):
            self.complain(Refused(Result.TLS_UNTRUSTED, f"{_leading(path)} {parent}, not found there"))
            return False
        if self._checks >= MAX_CHECKS:
            self.complain(_useless(f"comes with more than {MAX_CHECKS} signatures to check"))
            return False
        self._checks += 1
        try:
            _be_issuer(parent, path, is_anchor=is_anchor)
            _be_valid(parent, self._now)
        except Refused as refused:
            self.complain(_above([*path, parent], refused))
            return False
        return True


def _leading(path: Sequence[Certificate]) -> str:
    return "is signed by" if len(path) == 1 else "leads to"


def _above(path: Sequence[Certificate], refused: Refused) -> Refused:
    """The complaint about the last of `path`, in a sentence about the first."""
    if len(path) == 1:
        return refused
    return Refused(refused.result, f"is signed by {path[-1]}, which {refused}", for_all=refused.for_all)


def _best_first(child: Certificate, parents: Sequence[Certificate]) -> Sequence[Certificate]:
    """The candidates whose key identifier `child` names come first. It is only a hint (RFC 5280 4.2.1.1)."""
    if len(parents) < 2:
        return parents
    hint = child.extension(x509.AuthorityKeyIdentifier)

    def is_another(parent: Certificate) -> bool:
        identifier = parent.extension(x509.SubjectKeyIdentifier)
        return hint is None or identifier is None or identifier.digest != hint.key_identifier

    return sorted(parents, key=is_another)


def _be_signed_well(certificate: Certificate) -> None:
    """Raise Refused unless the algorithm of its signature is accepted."""
    algorithm = certificate.parsed.signature_algorithm_oid
    good = (
        _is_usual_pss(certificate)
        if algorithm == SignatureAlgorithmOID.RSASSA_PSS
        else algorithm in _SIGNATURES
    )
    if not good:
        known = getattr(algorithm, "_name", algorithm.dotted_string)
        raise _useless(f"is signed by an algorithm that counts for nothing ({known})")


def _is_usual_pss(certificate: Certificate) -> bool:
    """Whether one hash is used for both purposes, with a salt of its length. Go accepts no other parameters
    (x509.go, getSignatureAlgorithmFromAI).
    """
    try:
        digest, parameters = (
            certificate.parsed.signature_hash_algorithm,
            certificate.parsed.signature_algorithm_parameters,
        )
    except (UnsupportedAlgorithm, ValueError):
        return False
    return (
        isinstance(parameters, padding.PSS)
        and digest is not None
        and digest.name in _PSS_HASHES
        and getattr(parameters.mgf, "_algorithm").name == digest.name  # noqa: B009 - not known to type checkers
        and getattr(parameters, "_salt_length") == digest.digest_size  # noqa: B009
    )


def _be_issuer(parent: Certificate, path: Sequence[Certificate], *, is_anchor: bool) -> None:
    """Raise Refused unless `parent` has signed the last of `path`, and was allowed to."""
    if not parent.signs_certificates or not (is_anchor or parent.is_ca):
        raise Refused(Result.TLS_UNTRUSTED, "may sign none (basic constraints, key usage)")
    _be_long_enough(parent)
    if not parent.has_signed(path[-1]):
        raise Refused(
            Result.TLS_UNTRUSTED,
            "is there with another key than the one that signed" if is_anchor else "did not sign it",
        )
    constraints = parent.extension(x509.BasicConstraints)
    longest = constraints.path_length if constraints else None
    if longest is not None and len(path) - 1 > longest:
        raise _useless(f"allows {longest} authorities below it, and there are {len(path) - 1}")


def _be_for_servers(path: Sequence[Certificate]) -> None:
    for length, certificate in enumerate(path, 1):
        if not certificate.is_for_servers:
            raise _above(path[:length], _useless("is not for servers (extended key usage)"))


def _keep_constraints(path: Sequence[Certificate]) -> None:
    """Raise Refused unless every certificate allows the names of those below it (RFC 5280 4.2.1.10)."""
    compared = 0
    for length, authority in enumerate(path):
        constraints = authority.extension(x509.NameConstraints)
        if constraints is None:
            continue
        for name in (name for certificate in path[:length] for name in certificate.names):
            if isinstance(name, x509.DNSName) and not is_domain(name.value):
                raise _useless(f"names {printable(name.value)}, which {authority} cannot have allowed")
            for allows, subtrees in (
                (True, constraints.permitted_subtrees),
                (False, constraints.excluded_subtrees),
            ):
                same = [subtree for subtree in subtrees or () if type(subtree) is type(name)]
                compared += len(same)
                if compared > MAX_COMPARISONS:
                    raise _useless(f"has more than {MAX_COMPARISONS} names to compare with constraints")
                if (
                    same
                    and any(_is_within(name, subtree, if_unsure=not allows) for subtree in same) is not allows
                ):
                    raise _useless(f"names {printable(str(name.value))}, which {authority} may not sign for")


def _is_within(name: x509.GeneralName, subtree: x509.GeneralName, *, if_unsure: bool) -> bool:
    match name, subtree:
        case x509.IPAddress(), x509.IPAddress():
            return not isinstance(subtree.value, _ADDRESSES) and name.value in subtree.value
        case x509.DNSName(), x509.DNSName():
            return server_names.is_below(name.value, subtree.value, covered=if_unsure)
        case _:
            return if_unsure
