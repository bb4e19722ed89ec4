"""Decides who a client is, from its key and the key's line in authorized_keys. Pure.

The SSH user name grants nothing. But a client that uses the name of another site or user is refused: both
logs would show the wrong name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Final, Literal

from proxy.config.key_table import Grant, Table, Who
from proxy.errors.reasons import Reason
from proxy.openssh import blobs, certificates
from proxy.openssh.authorized_keys import Options
from proxy.openssh.certificates import FOREVER, Certificate
from proxy.runtime.endpoint import Endpoint
from proxy.runtime.text import shown

SIGNATURES: Final = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "rsa-sha2-512",
    "rsa-sha2-256",
)
"""Accepted from clients, and from CAs in certificates. `ssh-rsa` is left out, because it uses SHA-1."""

_CRITICAL: Final = frozenset({"source-address"})
_SHOWN: Final = 3


class Refused(Exception):
    """A key is not accepted. `reason` is for metrics. `str()` is the explanation, for the log only."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Login:
    """Who has logged in, and what the key's options allow."""

    who: Who
    asked: str
    """The SSH user name that the client sent."""
    address: Endpoint
    blob: bytes
    """The key or certificate."""
    fingerprint: str
    """The key's fingerprint: `SHA256:...`."""
    options: Options
    may_forward: bool
    """Whether it may open channels and register forwards."""
    expires: float | None
    """When the login ends, in Unix time; None if it does not expire."""
    certificate: str = ""
    """The key ID and serial number of the certificate, for the log; empty for a plain key."""

    @property
    def kind(self) -> Literal["site", "user"]:
        return self.who.kind

    @property
    def name(self) -> str:
        """The name of the site or user."""
        return self.who.name

    @property
    def identity(self) -> str:
        """The identity as it is written in `allow`: `ssh-user:ops`, `site:factory-7`."""
        return str(self.who)

    def may_open(self, target: Endpoint) -> bool:
        """Whether the key's own options let it open a channel to `target`; `allow` decides after that."""
        opens = self.options.opens
        return self.may_forward and (opens is None or any(one.covers(*target) for one in opens))

    def why_not(self, target: Endpoint) -> str:
        """Why `may_open` is false for this target."""
        if self.may_forward:
            return f"permitopen of the key of {self.identity} does not have {target}"
        if self.options.may_forward:
            return f"the certificate of {self.identity} has no permit-port-forwarding"
        return f"the key of {self.identity} may open nothing: it has restrict or no-port-forwarding"

    def may_listen(self, host: str, port: int) -> bool:
        """Whether the key's own options let it register this forward."""
        listens = self.options.listens
        return self.may_forward and (listens is None or any(one.covers(host, port) for one in listens))


def decide(table: Table, blob: bytes, *, asked: str, address: Endpoint, now: float) -> Login:
    """The login of a client that offers `blob`, a key or a certificate. `now` is Unix time. Raises Refused.

    The client may not have proved yet that it has the private key: this checks no signature.
    """
    certificate = _certificate(blob) if certificates.is_certificate(blob) else None
    key = blob if certificate is None else certificate.key
    fingerprint = blobs.fingerprint(key)
    if certificate is None:
        grant = table.keys.get(blob)
        if grant is None:
            raise Refused(Reason.UNKNOWN_KEY, f"no user and no site has the key {fingerprint}")
    else:
        grant = _by_certificate(table, certificate, now)
    if table.revoked & {blob, key}:
        raise Refused(Reason.KEY_REVOKED, f"the key {fingerprint} of {grant} is in revoked_keys")
    if certificate is not None and certificate.authority in table.revoked:
        raise Refused(Reason.KEY_REVOKED, f"the CA of {_named(certificate)} is in revoked_keys: {grant}")
    if grant.refused:
        raise Refused(
            Reason.KEY_OPTION, f"the key {fingerprint} of {grant} is not accepted: its line {grant.refused}"
        )
    _check_address(grant, certificate, address, fingerprint)
    expires = _expires(grant, certificate)
    if expires is not None and expires <= now:
        what = f"the key {fingerprint}" if certificate is None else _named(certificate)
        ended = datetime.fromtimestamp(expires, UTC).isoformat().replace("+00:00", "Z")
        raise Refused(Reason.KEY_EXPIRED, f"{what} of {grant} expired at {ended}")
    _check_name(table, grant.who, asked, fingerprint)
    options = grant.options
    may_forward = options.may_forward
    if certificate is not None:
        may_forward = may_forward and "permit-port-forwarding" in certificate.extensions
        # Like sshd: a touch is needed unless both the line and the certificate say `no-touch-required`.
        if "no-touch-required" not in certificate.extensions:
            options = replace(options, needs_touch=True)
    said = f"{certificate.key_id} (serial {certificate.serial})" if certificate else ""
    return Login(grant.who, asked, address, blob, fingerprint, options, may_forward, expires, said)


def _certificate(blob: bytes) -> Certificate:
    try:
        return Certificate.parse(blob)
    except ValueError as exc:
        raise Refused(Reason.CERTIFICATE, f"the certificate cannot be used: {exc}") from exc


def _named(certificate: Certificate) -> str:
    return f"the certificate {shown(certificate.key_id)} of {blobs.fingerprint(certificate.key)}"


def _by_certificate(table: Table, certificate: Certificate, now: float) -> Grant:
    said = _named(certificate)
    principals = table.authorities.get(certificate.authority)
    if principals is None:
        authority = blobs.fingerprint(certificate.authority)
        raise Refused(Reason.UNKNOWN_KEY, f"{said}: no user and no site has its CA {authority}")
    if certificate.kind != certificates.USER:
        raise Refused(Reason.CERTIFICATE, f"{said} is for a host, not for a user")
    if certificate.signature_algorithm not in SIGNATURES:
        algorithm = shown(certificate.signature_algorithm)
        raise Refused(Reason.WEAK_SIGNATURE, f"{said} was signed with {algorithm}, which is not accepted")
    if now < certificate.valid_after:
        raise Refused(Reason.CERTIFICATE, f"{said} is not valid yet")
    if unknown := sorted(certificate.critical.keys() - _CRITICAL):
        raise Refused(
            Reason.CERTIFICATE,
            f"{said} has the critical option {shown(unknown[0])}, which kubemux does not enforce",
        )
    grants = {id(one): one for name in certificate.principals if (one := principals.get(name))}
    if not grants:
        names = ", ".join(map(shown, certificate.principals[:_SHOWN])) or "none"
        raise Refused(
            Reason.CERTIFICATE, f"{said} has no principal of a user or site with its CA: it has {names}"
        )
    if len({(one.who, one.options) for one in grants.values()}) > 1:
        several = ", ".join(sorted({str(one) for one in grants.values()})[:_SHOWN])
        raise Refused(
            Reason.CERTIFICATE, f"{said} has principals of several users, sites or lines: {several}"
        )
    return next(iter(grants.values()))


def _check_address(grant: Grant, certificate: Certificate | None, address: Endpoint, key: str) -> None:
    try:
        source = ip_address(address.host.partition("%")[0])
        is_inside = grant.options.sources is None or grant.options.sources.include(source)
        if certificate is not None:
            is_inside = is_inside and certificate.allows(source)
    except ValueError as exc:
        raise Refused(
            Reason.CERTIFICATE, f"the certificate of {key} has a bad source-address: {exc}"
        ) from exc
    if not is_inside:
        raise Refused(Reason.KEY_SOURCE, f"the key {key} of {grant} may not be used from {address.host}")


def _expires(grant: Grant, certificate: Certificate | None) -> float | None:
    ends = [] if grant.options.expires is None else [grant.options.expires]
    if certificate is not None and certificate.valid_before != FOREVER:
        ends.append(float(certificate.valid_before))
    return min(ends, default=None)


def _check_name(table: Table, who: Who, asked: str, fingerprint: str) -> None:
    if asked == who.name or not (theirs := table.fingerprints.get(asked)):
        return
    keys = ", ".join(theirs[:_SHOWN]) + (", ..." if theirs[_SHOWN:] else "")
    raise Refused(
        Reason.OTHER_NAME,
        f"the key {fingerprint} is {who}'s, but the client asked for the name {shown(asked)}, which belongs "
        f"to {keys}",
    )
