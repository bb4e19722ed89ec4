"""What Go demands of one certificate, and of one certificate with its issuer."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import ExtensionOID, SignatureAlgorithmOID

from proxy.health.anchors import Certificate
from proxy.health.result import Result

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

_CONSTRAINED: Final = (x509.DNSName, x509.IPAddress, x509.RFC822Name, x509.UniformResourceIdentifier)


class Refused(Exception):
    """The certificates are not accepted. `str()` says why; the server's certificate is its subject.

    `for_all`: no client written in Go accepts them, whatever CA it trusts.
    """

    def __init__(self, result: Result, words: str, *, for_all: bool = False) -> None:
        super().__init__(words)
        self.result = result
        self.for_all = for_all


def refused_by_all(words: str) -> Refused:
    return Refused(Result.TLS_UNTRUSTED, words, for_all=True)


def require_key_length(certificate: Certificate) -> None:
    key = certificate.key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < MIN_RSA_BITS:
        raise refused_by_all(f"has an RSA key of {key.key_size} bits, which is too short")


def require_valid(certificate: Certificate, now: datetime) -> None:
    for extension in certificate.parsed.extensions:
        if extension.critical and not _is_understood(extension.value):
            raise refused_by_all(
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


def require_good_algorithm(certificate: Certificate) -> None:
    """Raise Refused if Go does not accept the algorithm of its signature."""
    algorithm = certificate.parsed.signature_algorithm_oid
    good = (
        _is_usual_pss(certificate)
        if algorithm == SignatureAlgorithmOID.RSASSA_PSS
        else algorithm in _SIGNATURES
    )
    if not good:
        known = getattr(algorithm, "_name", algorithm.dotted_string)
        raise refused_by_all(f"is signed by an algorithm that counts for nothing ({known})")


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


def require_issuer(parent: Certificate, path: Sequence[Certificate], *, is_anchor: bool) -> None:
    """Raise Refused if `parent` has not signed the last of `path`, or was not allowed to."""
    if not parent.signs_certificates or not (is_anchor or parent.is_ca):
        raise Refused(Result.TLS_UNTRUSTED, "may sign none (basic constraints, key usage)")
    require_key_length(parent)
    if not parent.has_signed(path[-1]):
        raise Refused(
            Result.TLS_UNTRUSTED,
            "is there with another key than the one that signed" if is_anchor else "did not sign it",
        )
    constraints = parent.extension(x509.BasicConstraints)
    longest = constraints.path_length if constraints else None
    if longest is not None and len(path) - 1 > longest:
        raise refused_by_all(f"allows {longest} authorities below it, and there are {len(path) - 1}")
