"""Learns the other host keys of a server, and writes them to `learned_host_keys`, as UpdateHostKeys does
(ssh_config(5)).

sshd lists its host keys after login (OpenSSH's PROTOCOL 2.5). For each key that we do not know, it must prove
that it has the key: it signs the session with it. `proxy/config/learned_keys.py` decides which keys may be
learned.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import stat
import tempfile
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncssh
import structlog

from proxy.config import learned_keys
from proxy.config.files import MAX_CREDENTIAL_BYTES, MAX_KNOWN_HOSTS_BYTES, Unusable, read_bytes
from proxy.config.learned_keys import Learned, Update
from proxy.config.model import GatewayConfig
from proxy.errors import CredentialsUnusable
from proxy.openssh.known_hosts import Entry, find, holding
from proxy.runtime.blocking import Place, doing
from proxy.ssh import internals

log = structlog.get_logger("kubemux.host_keys")

RSA_PROOFS: Final = (b"rsa-sha2-256", b"rsa-sha2-512")
_REQUEST: Final = b"hostkeys-prove-00@openssh.com"
_WRITING: Final[dict[Path, threading.Lock]] = {}
"""A lock for each file, which several gateways may share. If the file hangs, only these gateways wait."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """The host keys that one server has announced."""

    conn: asyncssh.SSHClientConnection
    name: bytes
    """The server's name as in known_hosts."""
    shown: bytes
    """The key or certificate that it used in the handshake."""
    keys: tuple[bytes, ...]


def split(payload: bytes) -> tuple[bytes, ...]:
    """The keys of an announcement; none if the message is not well formed."""
    keys = []
    while payload:
        size = int.from_bytes(payload[:4])
        if len(payload) < 4 + size:
            return ()
        keys.append(payload[4 : 4 + size])
        payload = payload[4 + size :]
    return tuple(keys)


def read_learned(path: Path) -> bytes:
    """The content of a `learned_host_keys`; empty if there is no file yet.

    Blocks. Raises CredentialsUnusable.
    """
    try:
        data, status = read_bytes(path, limit=MAX_CREDENTIAL_BYTES)
    except Unusable as exc:
        if not path.exists():
            return b""
        raise CredentialsUnusable(f"learned_host_keys {path} {exc}", hint=exc.hint) from exc
    if status.st_uid not in (os.geteuid(), 0) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise CredentialsUnusable(
            f"learned_host_keys {path} could have been written by others: it says whom to trust",
            hint=f"remove it, or chmod go-w {path}",
        )
    return data


async def learn(path: Path, config: GatewayConfig, announcement: Announcement, place: Place) -> Update | None:
    """Write to `path` what `announcement` allows, in `place`. Returns the change, if there is one.

    Raises CredentialsUnusable, OSError, asyncssh.Error, Hangs.
    """
    seconds = config.connect_timeout
    _, change = await place.run(_compare, path, config, announcement, timeout=seconds)
    if not (change.new or change.gone):
        why = change.refused or "nothing new"
        log.debug("host keys not learned", server=announcement.name.decode(), why=why)
        return None
    proven = await _proven(config, announcement, change.new) if change.new else ()
    written = await place.run(_write, path, config, announcement, proven, timeout=seconds)
    return written if written.new or written.gone else None


def _compare(path: Path, config: GatewayConfig, announcement: Announcement) -> tuple[list[Learned], Update]:
    """The lines of `path`, and what `announcement` changes in them.

    Blocks. Raises CredentialsUnusable.
    """
    learned, others = learned_keys.parse(read_learned(path))
    if others:
        raise CredentialsUnusable(
            f"learned_host_keys {path} has lines that kubemux has not written (line {others[0]})",
            hint="the file is replaced as a whole: move those lines to known_hosts, or name another file",
        )
    name, shown, announced = announcement.name, announcement.shown, announcement.keys
    names = {name, *(line.name for line in learned if line.blob in announced)}
    known: list[Entry] = []
    for known_hosts in config.known_hosts:
        data = _contents(known_hosts)
        found = {entry for name in names for entry in find(data, name).entries}
        found |= {entry for key in announced for entry in holding(data, key)}
        known += sorted(found)
    return learned, learned_keys.update(known, learned, name, shown, announced)


def _contents(path: Path) -> bytes:
    try:
        return read_bytes(path, limit=MAX_KNOWN_HOSTS_BYTES)[0]
    except Unusable:
        return b""


async def _proven(
    config: GatewayConfig, announcement: Announcement, keys: Sequence[bytes]
) -> tuple[bytes, ...]:
    """Those of `keys` for which the server has signed the session.

    If one signature is missing, none of them counts.
    """
    try:
        async with asyncio.timeout(config.connect_timeout):
            proofs = await internals.prove_host_keys(announcement.conn, keys)
    except TimeoutError:
        proofs = None
    session = internals.session_id(announcement.conn)
    if proofs is not None and all(
        is_proof(proof, session, key) for key, proof in zip(keys, proofs, strict=True)
    ):
        return tuple(keys)
    log.warning(
        "host keys not proven",
        server=announcement.name.decode(),
        keys=[learned_keys.fingerprint(key) for key in keys],
        hint="the server lists host keys that it cannot sign with; they are not learned. Look at HostKey "
        "in its sshd_config",
    )
    return ()


def is_proof(proof: bytes, session: bytes, blob: bytes) -> bool:
    """Whether `proof` is a signature by the key `blob` for this session and this purpose.

    With RSA, only SHA-2 counts.
    """
    signed = b"".join(len(part).to_bytes(4) + part for part in (_REQUEST, session, blob))
    try:
        key = asyncssh.public_key.decode_ssh_public_key(blob)
        if learned_keys.kind(blob) == b"ssh-rsa" and learned_keys.kind(proof) not in RSA_PROOFS:
            return False
        return key.verify(signed, proof)
    except (asyncssh.Error, ValueError, TypeError, ArithmeticError):
        return False


def _write(
    path: Path, config: GatewayConfig, announcement: Announcement, proven: Collection[bytes]
) -> Update:
    """Replace the file by a new one with the `proven` keys. Returns the changes.

    It compares again, because the files may have changed since the server was asked. Raises OSError,
    CredentialsUnusable.
    """
    doing(f"waiting for another gateway to write {path}")
    with _WRITING.setdefault(path, threading.Lock()), _alone(path):
        learned, change = _compare(path, config, announcement)
        change = change._replace(new=tuple(key for key in change.new if key in proven))
        if change.new or change.gone:
            doing(f"writing {path}")
            _replace(path, learned_keys.render(learned_keys.updated(learned, announcement.name, change)))
        return change


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep other daemons from writing `path` meanwhile.

    The lock is that of the folder, because each write replaces the file itself. Some file systems have no
    such locks (NFS, for a folder). There, a key may be lost, and is learned again at the next login.
    """
    doing(f"waiting for another kubemux to write {path}")
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _replace(path: Path, data: bytes) -> None:
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:  # mode 0600
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
