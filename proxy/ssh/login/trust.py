"""The host keys that a server may have, from known_hosts, `learned_host_keys` and RevokedHostKeys.

This module decides which files are read, and in which order host key algorithms are offered.
`proxy/openssh/known_hosts.py` reads the lines, and `proxy/ssh/login/verify.py` compares them with the key of
the server. No setting switches the check off.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import asyncssh
import structlog

from proxy.config.files import MAX_KNOWN_HOSTS_BYTES, Unusable, read_bytes
from proxy.config.known_hosts_warnings import missing
from proxy.config.learned_keys import parse, vouched_for
from proxy.config.model import GatewayConfig
from proxy.errors import CredentialsUnusable
from proxy.openssh import known_hosts, revoked
from proxy.openssh.known_hosts import AUTHORITY, REVOKED, Entry
from proxy.openssh.ssh_config import SshConfig
from proxy.runtime.blocking import doing
from proxy.ssh.login import learning

log = structlog.get_logger("kubemux.known_hosts")

ALGORITHMS: Final = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "rsa-sha2-512",
    "rsa-sha2-256",
)
"""ssh-rsa is left out because it uses SHA-1."""
_CERTIFICATE: Final = "-cert-v01@openssh.com"

NOBODY: Final[tuple[list[str], list[str], list[str]]] = ([], [], [])
"""The known_hosts for asyncssh. It is empty, so that asyncssh itself accepts no key."""


def fingerprint(key: asyncssh.SSHKey) -> str:
    """As OpenSSH prints it: `ssh-ed25519 SHA256:...`."""
    return f"{key.get_algorithm()} {key.get_fingerprint()}"


@dataclass(frozen=True, slots=True)
class Known:
    """A key, and where it comes from."""

    key: asyncssh.SSHKey
    file: Path
    line: int
    name: str = ""
    """The name by which the line was found."""
    is_simple: bool = True
    """Whether the line holds only names, no patterns."""

    def __str__(self) -> str:
        return f"{fingerprint(self.key)} ({self.file}:{self.line})"


@dataclass(frozen=True, slots=True)
class Trusted:
    """Everything that the files contain about one server."""

    names: Sequence[str] = ()
    """The names by which it is looked up in known_hosts."""
    principal: str = ""
    """The name that its certificate must contain."""
    files: Sequence[Path] = ()
    keys: Sequence[Known] = ()
    authorities: Sequence[Known] = ()
    revoked: Sequence[Known] = ()
    krls: Sequence[Path] = ()
    """Revocation lists in which the server's key must be looked up."""
    unread: Sequence[str] = ()
    """Files and lines that could not be read, and why."""

    def algorithms(self, wanted: Sequence[str] = ()) -> list[str]:
        """The host key algorithms to offer, best first: certificates, the kinds of keys that we know, other
        kinds.

        If `wanted` is not empty, only those. Other kinds are offered for a better error: the server then
        sends a key that the message can show, instead of finding no algorithm in common. Certificates are
        only offered if known_hosts has an authority: otherwise a certificate would come instead of a key that
        we know.
        """
        allowed = tuple(wanted) or (*(_certificate(name) for name in ALGORITHMS), *ALGORITHMS)
        certificates = [name for name in allowed if name.endswith(_CERTIFICATE)]
        plain = [name for name in allowed if name not in certificates]
        known = [algorithm.decode() for known in self.keys for algorithm in known.key.sig_algorithms]
        usable = [name for name in known if name in plain]
        return list(dict.fromkeys([*(certificates if self.authorities else ()), *usable, *plain]))


def _certificate(algorithm: str) -> str:
    return f"{algorithm.removesuffix('@openssh.com')}{_CERTIFICATE}"


def read(
    config: GatewayConfig, options: asyncssh.SSHClientConnectionOptions, asked: SshConfig | None
) -> Trusted:
    """What the gateway's `known_hosts`, or else the files of its ssh_config, contain about the server of
    `options`.

    The server is looked up by its name, never by the address that it resolves to. Blocks. Raises
    CredentialsUnusable.
    """
    names = known_hosts.names(options.host, options.port, options.host_key_alias or "")
    unread: list[str] = []
    files: dict[Path, bytes] = {}
    theirs = _from_ssh_config(config, asked) if asked and not config.known_hosts else ()
    if config.known_hosts:
        files = {path: _contents(config, path) for path in config.known_hosts}
    else:
        for path in theirs:
            try:
                files[path] = _bytes(path)
            except Unusable as exc:  # like ssh(1): another file may have the key
                if path.is_file():
                    unread.append(f"{path} {exc}")
    told = files | (
        {Path(asked.known_hosts_command[0]): asked.commanded} if asked and asked.commanded else {}
    )
    found = [
        (path, name, entry)
        for name in names
        for path, data in told.items()
        for entry in _find(path, data, name, unread)
    ]
    if config.known_hosts and config.learned_host_keys:
        found += _learned(config.learned_host_keys, names, [entry for _, _, entry in found])
    lines = [
        (known, entry.marker) for path, name, entry in found if (known := _known(path, name, entry, unread))
    ]
    lists, krls = _revocations(asked.revoked_host_keys if asked else ())
    return Trusted(
        names=[name.decode() for name in names],
        principal=names[-1].decode(),
        files=list(files or theirs[:1]),
        keys=_first([known for known, marker in lines if not marker], names),
        authorities=[known for known, marker in lines if marker == AUTHORITY],
        revoked=[*lists, *(known for known, marker in lines if marker == REVOKED)],
        krls=krls,
        unread=list(dict.fromkeys(unread)),
    )


def _first(known: Sequence[Known], names: Sequence[bytes]) -> list[Known]:
    """The entries of the first name that has any.

    A line without a port is used only if no line has the port (sshconnect.c).
    """
    for name in names:
        if found := [one for one in known if one.name == name.decode()]:
            return found
    return []


def _bytes(path: Path) -> bytes:
    doing(f"reading {path}")
    return read_bytes(path, limit=MAX_KNOWN_HOSTS_BYTES)[0]


def _contents(config: GatewayConfig, path: Path) -> bytes:
    try:
        return _bytes(path)
    except Unusable as exc:
        hint = exc.hint
        if isinstance(exc.__cause__, FileNotFoundError):
            hint = missing(config, path)
        raise CredentialsUnusable(f"known_hosts file {path} of {config.host} {exc}", hint=hint) from exc


def _from_ssh_config(config: GatewayConfig, found: SshConfig) -> tuple[Path, ...]:
    if (
        not found.has_user_known_hosts
        and not found.known_hosts_command
        and not any(path.exists() for path in found.known_hosts)
    ):
        raise CredentialsUnusable(
            f"ssh_config {found.path} for {config.host} switches host key checking off (UserKnownHostsFile "
            "none)",
            hint="give known_hosts in the gateway; kubemux never connects to a server it cannot identify",
        )
    return found.known_hosts


def _find(path: Path, data: bytes, name: bytes, unread: list[str]) -> list[Entry]:
    found = known_hosts.find(data, name)
    for number in found.unreadable:
        _skip(path, number, unread)
    return found.entries


def _learned(path: Path, names: Sequence[bytes], known: Sequence[Entry]) -> list[tuple[Path, bytes, Entry]]:
    """The lines of `learned_host_keys` that known_hosts still vouches for."""
    lines, _ = parse(learning.read_learned(path))
    return [
        (path, line.name, Entry(line.line, b"", line.name, line.blob))
        for line in vouched_for(known, lines)
        if line.name in names
    ]


def decode(blob: bytes) -> asyncssh.SSHKey:
    """The key `blob`, which may come from an unknown server.

    Raises ValueError. cryptography raises several exceptions for numbers that are not a key.
    """
    try:
        return asyncssh.public_key.decode_ssh_public_key(blob)
    except (ValueError, TypeError, ArithmeticError) as exc:  # OverflowError: a modulus below 0
        raise ValueError(str(exc)) from exc


def _known(path: Path, name: bytes, entry: Entry, unread: list[str]) -> Known | None:
    try:
        key = decode(entry.blob)
    except ValueError:
        _skip(path, entry.line, unread)
        return None
    return Known(key, path, entry.line, name.decode(), known_hosts.is_simple(entry.hosts))


def _skip(path: Path, number: int, unread: list[str]) -> None:
    unread.append(f"{path}:{number} is not a known_hosts line")
    _warn_once(path, number)


@lru_cache(maxsize=256)  # each dial reads the file again
def _warn_once(path: Path, number: int) -> None:
    hint = "a line reads: HOST[,HOST...] KEYTYPE BASE64; kubemux check lists all that do not"
    log.warning("known_hosts line skipped", file=str(path), line=number, hint=hint)


def _revocations(paths: Iterable[Path]) -> tuple[list[Known], list[Path]]:
    """RevokedHostKeys of ssh_config: single keys, and revocation lists.

    Raises CredentialsUnusable: if one cannot be read, no server is trusted.
    """
    listed, krls = [], []
    for path in paths:
        if os.path.realpath(path) == os.devnull:  # for ssh(1) it is an empty list
            continue
        try:
            data = _bytes(path)
            if revoked.is_krl(data):
                krls.append(path)
            else:
                listed += [Known(_revoked(line), path, number) for number, line in revoked.listed(data)]
        except (Unusable, ValueError) as exc:
            raise CredentialsUnusable(
                f"RevokedHostKeys {path} cannot be used: {exc}",
                hint="without it any host key may be a revoked one, so none is trusted. It holds public "
                "keys, one a line, or is "
                "a revocation list (ssh-keygen -k)",
            ) from exc
    return listed, krls


def _revoked(line: str) -> asyncssh.SSHKey:
    try:
        return asyncssh.import_public_key(line)
    except asyncssh.KeyImportError:
        return asyncssh.import_certificate(line).key
