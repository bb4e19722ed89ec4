"""The owner of each key: the keys and CAs of all sites and users, in one table. Pure.

A key must belong to one identity. If two identities have the same key, it is refused: kubemux could not know
which of them logs in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from proxy.config.findings import Finding
from proxy.openssh import blobs
from proxy.openssh.authorized_keys import Options

K = TypeVar("K")


class Who(NamedTuple):
    """The identity of a site or user."""

    kind: Literal["site", "user"]
    name: str

    def __str__(self) -> str:
        """The identity as it is written in `allow`."""
        return f"site:{self.name}" if self.kind == "site" else f"ssh-user:{self.name}"


class Grant(NamedTuple):
    """One line of an authorized_keys file: it grants an identity, restricted by the line's options."""

    who: Who
    options: Options
    path: Path
    line: int
    refused: str = ""
    """Why the line is not used; empty if it is used."""

    def __str__(self) -> str:
        return f"{self.who} ({self.path}:{self.line})"


class Lines(NamedTuple):
    """The contents of the files of one site or user: keys, CAs with a principal each, and problems."""

    keys: tuple[tuple[bytes, Grant], ...] = ()
    authorities: tuple[tuple[bytes, str, Grant], ...] = ()
    findings: tuple[Finding, ...] = ()
    warnings: tuple[Finding, ...] = ()
    """Lines that are not used, in files with other lines that are used."""
    is_complete: bool = True
    """False if this machine could not read a file (`Unread`): the file may be good, and have more keys."""


@dataclass(frozen=True, slots=True)
class Table:
    """The owners of keys, and of the principals of CAs."""

    keys: Mapping[bytes, Grant] = field(default_factory=dict)
    authorities: Mapping[bytes, Mapping[str, Grant]] = field(default_factory=dict)
    fingerprints: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The fingerprints of each site or user, by its name."""
    revoked: frozenset[bytes] = frozenset()
    """Keys and CAs that are never accepted."""


def table(read: Iterable[Lines]) -> tuple[Table, tuple[tuple[Grant, Grant], ...]]:
    """The table, and the pairs of lines that have the same key for two identities."""
    keys: dict[bytes, Grant] = {}
    authorities: dict[bytes, dict[str, Grant]] = {}
    fingerprints: dict[str, list[str]] = {}
    twice: list[tuple[Grant, Grant]] = []
    for lines in read:
        for blob, grant in lines.keys:
            _put(keys, blob, grant, twice)
            fingerprints.setdefault(grant.who.name, []).append(blobs.fingerprint(blob))
        for blob, principal, grant in lines.authorities:
            _put(authorities.setdefault(blob, {}), principal, grant, twice)
            fingerprints.setdefault(grant.who.name, []).append(blobs.fingerprint(blob))
    for blob in keys.keys() & authorities.keys():
        _refuse_key_and_authority(keys, authorities[blob], blob, twice)
    named = {name: tuple(dict.fromkeys(found)) for name, found in fingerprints.items()}
    return Table(keys, authorities, named), tuple(twice)


def _refuse_key_and_authority(
    keys: dict[bytes, Grant], by_principal: dict[str, Grant], blob: bytes, twice: list[tuple[Grant, Grant]]
) -> None:
    """Refuse a key that belongs to one identity, and is the CA of another: its owner could be both."""
    plain = keys[blob]
    for principal, grant in by_principal.items():
        if grant.who != plain.who:
            twice.append((plain, grant))
            keys[blob] = plain._replace(refused=_same(grant))
            by_principal[principal] = grant._replace(refused=_same(plain))


def _same(other: Grant) -> str:
    return f"has the same key as {other}"


def _put(known: dict[K, Grant], key: K, grant: Grant, twice: list[tuple[Grant, Grant]]) -> None:
    first = known.setdefault(key, grant)
    if first is grant:
        return
    if first.who != grant.who:
        twice.append((first, grant))
        known[key] = first._replace(refused=_same(grant))
    elif grant.refused or grant.options != first.options:
        # One identity has the same key on two lines. sshd uses the first line that accepts the key. We refuse
        # the key if one of the lines is refused, or if their options differ.
        known[key] = first._replace(refused=first.refused or f"has another line with other options: {grant}")
