"""Which key is whose: the keys and CAs of sites and users, in one table. Pure.

A key is one identity. One that two of them have lets nobody in: kubemux would have to guess whose it is.
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
    """An identity."""

    kind: Literal["site", "user"]
    name: str

    def __str__(self) -> str:
        """As `allow` has it."""
        return f"site:{self.name}" if self.kind == "site" else f"ssh-user:{self.name}"


class Grant(NamedTuple):
    """What a line of a file gives: an identity, within its options."""

    who: Who
    options: Options
    path: Path
    line: int
    refused: str = ""
    """Why nobody is let in by it; empty if it is good."""

    def __str__(self) -> str:
        return f"{self.who} ({self.path}:{self.line})"


class Lines(NamedTuple):
    """What one section has: its keys, its CAs by principal, and what is wrong."""

    keys: tuple[tuple[bytes, Grant], ...] = ()
    authorities: tuple[tuple[bytes, str, Grant], ...] = ()
    findings: tuple[Finding, ...] = ()
    warnings: tuple[Finding, ...] = ()
    """Lines that are not used, in files that have others."""


@dataclass(frozen=True, slots=True)
class Table:
    """Whose each key is, and each principal of a CA."""

    keys: Mapping[bytes, Grant] = field(default_factory=dict)
    authorities: Mapping[bytes, Mapping[str, Grant]] = field(default_factory=dict)
    fingerprints: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By the name of a site or user."""


def table(read: Iterable[Lines]) -> tuple[Table, tuple[tuple[Grant, Grant], ...]]:
    """The table, and each line that repeats the key of another identity, after that other one."""
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
    named = {name: tuple(dict.fromkeys(found)) for name, found in fingerprints.items()}
    return Table(keys, authorities, named), tuple(twice)


def _put(known: dict[K, Grant], key: K, grant: Grant, twice: list[tuple[Grant, Grant]]) -> None:
    first = known.setdefault(key, grant)
    if first is grant:
        return
    if first.who != grant.who:
        twice.append((first, grant))
        known[key] = first._replace(refused=f"is {grant}'s, too")
    elif grant.refused or grant.options != first.options:
        # The same key twice in one identity: sshd takes the first line that lets it in. We take none that is
        # refused, and no guess.
        known[key] = first._replace(refused=first.refused or f"has another line with other options: {grant}")
