"""Verifies a server's certificates by the rules of Go's crypto/x509, so that a probe accepts exactly the
servers that kubectl accepts.

    leaf (valid now? for this name? for servers?) -> issuer -> ... -> any certificate of the CA file

OpenSSL has other rules, and neither set is stricter. OpenSSL wants a self-signed certificate at the end,
finds issuers by key identifiers, tries only one issuer of a name, and checks the key usage of a leaf. Go
wants names that are equal byte by byte, no SHA-1, no negative serial number and no unknown critical
extension. Each rule here is one of verify.go or parser.go in Go, and the tests compare with a real kubectl.
cryptography checks the signatures. There is one difference to Go: policy constraints, and constraints on
e-mail addresses and URIs, are refused here.
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
"""The most signatures that are checked for one server: each may block the event loop for a millisecond.

Go allows 100. Usually there are two.
"""
MAX_COMPARISONS: Final = 10_000
"""The most comparisons of a name with a constraint. The server decides how many of both its certificates have
(CVE-2025-58187).
"""
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
    """The certificates are not accepted. `str()` says why; the server's certificate is its subject.

    `for_all`: no client written in Go accepts them, whatever CA it trusts.
    """

    def __init__(self, result: Result, words: str, *, for_all: bool = False) -> None:
        super().__init__(words)
        self.result = result
        self.for_all = for_all


def verify(chain: Sequence[bytes], anchors: Anchors, name: str, now: datetime) -> Certificate:
    """The server's own certificate: the first of `chain`, which is DER in the order that the server sent.

    Raises Refused if it is not for `name`, or if no path leads from it to an anchor.
    """
    leaf, *others = [_read(der, number) for number, der in enumerate(chain, 1)]
    _require_valid(leaf, now)
    ips = [ip for ip in leaf.names.get_values_for_type(x509.IPAddress) if isinstance(ip, _ADDRESSES)]
    if not server_names.matches(name, dns=leaf.names.get_values_for_type(x509.DNSName), ips=ips):
        raise Refused(Result.TLS_NAME_MISMATCH, f"does not name {name}")
    if not isinstance(leaf.key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey):
        raise _refused_by_all("has a key of a kind that TLS does not know")
    _require_key_length(leaf)
    search = _Search(others, anchors, now)
    for path in search.paths([leaf]):
        try:
            _require_server_usage(path)
            _require_allowed_names(path)
        except Refused as refused:
            search.note(refused)
        else:
            return leaf
    assert search.first_refusal  # noqa: S101 - every path that fails leaves one
    raise search.first_refusal


def _refused_by_all(words: str) -> Refused:
    return Refused(Result.TLS_UNTRUSTED, words, for_all=True)


def _read(der: bytes, number: int) -> Certificate:
    which = "" if number == 1 else f"comes with another (number {number}) that "
    try:
        certificate = Certificate(load_der(der))
    except ValueError as exc:
        raise _refused_by_all(f"{which}cannot be read: {printable(str(exc))}") from exc
    key = certificate.key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size > MAX_RSA_BITS:
        raise _refused_by_all(f"{which}has an RSA key of {key.key_size} bits, which is too long")
    return certificate


def _require_key_length(certificate: Certificate) -> None:
    key = certificate.key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < MIN_RSA_BITS:
        raise _refused_by_all(f"has an RSA key of {key.key_size} bits, which is too short")


def _require_valid(certificate: Certificate, now: datetime) -> None:
    for extension in certificate.parsed.extensions:
        if extension.critical and not _is_understood(extension.value):
            raise _refused_by_all(
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
            _require_good_algorithm(child)
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
            self.note(_refused_by_all(f"comes with more than {MAX_CHECKS} signatures to check"))
            return False
        self._checks += 1
        try:
            _require_issuer(parent, path, is_anchor=is_anchor)
            _require_valid(parent, self._now)
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
    """`parents`, those with the key identifier that `child` names first.

    The others are tried, too: the identifier is only a hint (RFC 5280 4.2.1.1).
    """
    if len(parents) < 2:
        return parents
    hint = child.extension(x509.AuthorityKeyIdentifier)

    def is_another(parent: Certificate) -> bool:
        identifier = parent.extension(x509.SubjectKeyIdentifier)
        return hint is None or identifier is None or identifier.digest != hint.key_identifier

    return sorted(parents, key=is_another)


def _require_good_algorithm(certificate: Certificate) -> None:
    """Raise Refused if Go does not accept the algorithm of its signature."""
    algorithm = certificate.parsed.signature_algorithm_oid
    good = (
        _is_usual_pss(certificate)
        if algorithm == SignatureAlgorithmOID.RSASSA_PSS
        else algorithm in _SIGNATURES
    )
    if not good:
        known = getattr(algorithm, "_name", algorithm.dotted_string)
        raise _refused_by_all(f"is signed by an algorithm that counts for nothing ({known})")


def _is_usual_pss(certificate: Certificate) -> bool:
    """Whether both hashes of RSA-PSS are the same, and the salt is as long as the hash.

    Go accepts no other parameters (x509.go, getSignatureAlgorithmFromAI).
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


def _require_issuer(parent: Certificate, path: Sequence[Certificate], *, is_anchor: bool) -> None:
    """Raise Refused if `parent` has not signed the last of `path`, or was not allowed to."""
    if not parent.signs_certificates or not (is_anchor or parent.is_ca):
        raise Refused(Result.TLS_UNTRUSTED, "may sign none (basic constraints, key usage)")
    _require_key_length(parent)
    if not parent.has_signed(path[-1]):
        raise Refused(
            Result.TLS_UNTRUSTED,
            "is there with another key than the one that signed" if is_anchor else "did not sign it",
        )
    constraints = parent.extension(x509.BasicConstraints)
    longest = constraints.path_length if constraints else None
    if longest is not None and len(path) - 1 > longest:
        raise _refused_by_all(f"allows {longest} authorities below it, and there are {len(path) - 1}")


def _require_server_usage(path: Sequence[Certificate]) -> None:
    for length, certificate in enumerate(path, 1):
        if not certificate.is_for_servers:
            raise _about_first(path[:length], _refused_by_all("is not for servers (extended key usage)"))


def _require_allowed_names(path: Sequence[Certificate]) -> None:
    """Raise Refused if a certificate does not allow the names of those below it (RFC 5280 4.2.1.10)."""
    compared = 0
    for length, authority in enumerate(path):
        constraints = authority.extension(x509.NameConstraints)
        if constraints is None:
            continue
        for name in (name for certificate in path[:length] for name in certificate.names):
            if isinstance(name, x509.DNSName) and not is_domain(name.value):
                raise _refused_by_all(f"names {printable(name.value)}, which {authority} cannot have allowed")
            for allows, subtrees in (
                (True, constraints.permitted_subtrees),
                (False, constraints.excluded_subtrees),
            ):
                same = [subtree for subtree in subtrees or () if type(subtree) is type(name)]
                compared += len(same)
                if compared > MAX_COMPARISONS:
                    raise _refused_by_all(
                        f"has more than {MAX_COMPARISONS} names to compare with constraints"
                    )
                if (
                    same
                    and any(_is_within(name, subtree, if_unsure=not allows) for subtree in same) is not allows
                ):
                    raise _refused_by_all(
                        f"names {printable(str(name.value))}, which {authority} may not sign for"
                    )


def _is_within(name: x509.GeneralName, subtree: x509.GeneralName, *, if_unsure: bool) -> bool:
    match name, subtree:
        case x509.IPAddress(), x509.IPAddress():
            return not isinstance(subtree.value, _ADDRESSES) and name.value in subtree.value
        case x509.DNSName(), x509.DNSName():
            return server_names.is_below(name.value, subtree.value, covered=if_unsure)
        case _:
            return if_unsure
