"""Reads OpenSSH certificates (PROTOCOL.certkeys), before anything is computed for them. Pure.

The client that shows one is not authenticated yet: here its fields are read, which is cheap, so that a CA
that nobody trusts costs no check of a signature.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Final, Self

from proxy.openssh import blobs
from proxy.openssh.blobs import Reader
from proxy.openssh.sources import Address

USER: Final = 1
MOST_PRINCIPALS: Final = 256
"""ssh-keygen's own limit (SSHKEY_CERT_MAX_PRINCIPALS)."""
FOREVER: Final = 2**64 - 1

_NAMES: Final[Mapping[str, str]] = {
    f"{kind.removesuffix('@openssh.com')}{blobs.CERTIFICATE}": kind for kind in blobs.KINDS
}
"""The name of a kind of certificate -> that of its key."""


def is_certificate(blob: bytes) -> bool:
    """Whether `blob` claims to be a certificate of a kind that is accepted."""
    try:
        return Reader(blob).string().decode("ascii", "replace") in _NAMES
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Certificate:
    """The fields of a certificate. Its signature is not checked yet."""

    key: bytes
    """The certified public key."""
    kind: int
    key_id: str
    serial: int
    principals: tuple[str, ...]
    valid_after: int
    """Unix time; so is `valid_before`."""
    valid_before: int
    critical: Mapping[str, bytes]
    extensions: frozenset[str]
    authority: bytes
    """The CA's public key."""
    signature_algorithm: str

    @classmethod
    def parse(cls, blob: bytes) -> Self:
        """Raises ValueError."""
        reader = Reader(blob)
        name = reader.string().decode("ascii", "replace")
        if name not in _NAMES:
            raise ValueError("it is no certificate of a kind that is accepted")
        kind = _NAMES[name]
        reader.string()  # the nonce
        fields = [reader.string() for _ in range(blobs.KINDS[kind])]
        blobs.check_fields(kind, fields)
        serial, role = reader.number(8), reader.number(4)
        key_id, principals = reader.string(), _strings(reader.string())
        after, before = reader.number(8), reader.number(8)
        critical, extensions = _named(reader.string()), _named(reader.string())
        reader.string()  # reserved
        authority, signature = reader.string(), Reader(reader.string())
        reader.end()
        if len(principals) > MOST_PRINCIPALS:
            raise ValueError(f"it has more than {MOST_PRINCIPALS} principals")
        return cls(
            key=b"".join(len(part).to_bytes(4) + part for part in (kind.encode(), *fields)),
            kind=role,
            key_id=key_id.decode("utf-8", "replace"),
            serial=serial,
            principals=tuple(one.decode("utf-8", "strict") for one in principals),
            valid_after=after,
            valid_before=before,
            critical=critical,
            extensions=frozenset(extensions),
            authority=authority,
            signature_algorithm=signature.string().decode("ascii", "replace"),
        )

    def allows(self, address: Address) -> bool:
        """Whether the critical option `source-address` allows this address. Raises ValueError."""
        if (value := self.critical.get("source-address")) is None:
            return True
        reader = Reader(value)
        listed = reader.string().decode("ascii")
        reader.end()
        return any(address in ip_network(one) for one in listed.split(","))


def _strings(data: bytes) -> list[bytes]:
    reader, found = Reader(data), []
    while reader:
        found.append(reader.string())
    return found


def _named(data: bytes) -> dict[str, bytes]:
    """Options: names and values. Raises ValueError if a name comes twice."""
    reader, found = Reader(data), dict[str, bytes]()
    while reader:
        name = reader.string().decode("ascii")
        if name in found:
            raise ValueError("it has an option twice")
        found[name] = reader.string()
    return found
