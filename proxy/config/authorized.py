"""Reads the keys of sites and users."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from proxy.config.files import Unread, Unusable, read_bytes
from proxy.config.findings import Finding, Loc
from proxy.config.key_table import Grant, Lines, Who
from proxy.config.ssh_server import SiteConfig, UserConfig
from proxy.openssh import authorized_keys
from proxy.openssh.authorized_keys import Options

_KRL: Final = b"SSHKRL\n"
"""How OpenSSH's revocation lists begin (PROTOCOL.krl)."""
MAX_BYTES: Final = 16 << 20
"""The maximum size of a file: about 100,000 keys."""
_MOST_TOLD: Final = 20
"""Lines of one file that cannot be used, each with a warning; the rest are counted."""


def read(loc: Loc, section: SiteConfig | UserConfig) -> Lines:
    """Read the files of one site or user. This blocks. A file that cannot be used is a finding, and adds no
    keys.
    """
    who = Who("site" if isinstance(section, SiteConfig) else "user", str(loc[1]))
    own = section.principals or (who.name,)
    keys: list[tuple[bytes, Grant]] = []
    authorities: list[tuple[bytes, str, Grant]] = []
    findings: list[Finding] = []
    warnings: list[Finding] = []
    is_complete = True
    for below, path, is_authority in _files(section):
        here = (*loc, *below)
        try:
            data, status = read_bytes(path, limit=MAX_BYTES)
            _require_own(status, path)
        except Unusable as exc:
            findings.append(Finding(here, f"{path} {exc}", exc.hint))
            is_complete = is_complete and not isinstance(exc, Unread)
            continue
        good, bad = authorized_keys.parse(data)
        if not good and not bad:
            findings.append(Finding(here, f"{path} has no key", "put the line of a .pub file into it"))
        unused = [Finding(here, f"{path}:{line.number} {line.message}", line.hint) for line in bad]
        if good:
            warnings += unused[:_MOST_TOLD]
            if more := len(unused[_MOST_TOLD:]):
                said = f"{path} has {more} more lines that cannot be used"
                warnings.append(Finding(here, said, unused[0].hint))
        elif unused:
            others = f" (one of {len(unused)} lines that cannot be used)" if unused[1:] else ""
            findings.append(unused[0]._replace(message=unused[0].message + others))
        keys += [
            (line.blob, Grant(who, Options(), path, line.number, line.message)) for line in bad if line.blob
        ]
        for key in good:
            grant = Grant(who, key.options, path, key.number)
            if is_authority or key.options.is_authority:
                authorities += [(key.blob, name, grant) for name in key.options.principals or own]
            else:
                keys.append((key.blob, grant))
    return Lines(tuple(keys), tuple(authorities), tuple(findings), tuple(warnings), is_complete)


def read_revoked(paths: Iterable[Path]) -> frozenset[bytes]:
    """The revoked keys in these files. This blocks. Raises Unusable, even if only one line is no key: a key
    that was meant to be revoked must not be accepted.
    """
    found = set()
    for path in paths:
        try:
            data, _ = read_bytes(path, limit=MAX_BYTES)
            found |= revoked_in(data)
        except Unusable as exc:
            raise Unusable(f"{path} {exc}", exc.hint) from exc
    return frozenset(found)


def revoked_in(data: bytes) -> set[bytes]:
    """Parse a file of revoked keys. Raises Unusable."""
    if data.startswith(_KRL):
        hint = "write the public keys into it, one on each line; of a certificate, its key (ssh-keygen -L)"
        raise Unusable("is a KRL (ssh-keygen -k), which kubemux does not read", hint)
    keys, bad = authorized_keys.parse(data)
    if unreadable := [line for line in bad if line.blob is None]:
        raise Unusable(f"line {unreadable[0].number} {unreadable[0].message}", unreadable[0].hint)
    return {line.blob for line in keys} | {line.blob for line in bad if line.blob is not None}


def _files(section: SiteConfig | UserConfig) -> Iterator[tuple[Loc, Path, bool]]:
    for name, is_authority in (("authorized_keys", False), ("cert_authority", True)):
        yield from (((name, index), path, is_authority) for index, path in enumerate(getattr(section, name)))


def _require_own(status: os.stat_result, path: Path) -> None:
    """Raise Unusable if other users may write to the file, as sshd does (StrictModes): they could log in."""
    if status.st_mode & 0o022:
        mode = stat.S_IMODE(status.st_mode)
        raise Unusable(f"may be written by others than its owner (mode {mode:04o})", f"chmod go-w {path}")
    if status.st_uid not in {0, os.geteuid()}:
        raise Unusable(f"belongs to uid {status.st_uid}, who could let anybody in", f"chown root {path}")
