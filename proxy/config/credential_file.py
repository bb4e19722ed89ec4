"""Checks one file that a configuration names: its access, its format, and who else may read it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from proxy.config import authorized, certificates, htpasswd
from proxy.config.file_paths import SERVICE_CREDENTIALS, credentials_directory, is_for_system_service
from proxy.config.files import MAX_CREDENTIAL_BYTES, MAX_KNOWN_HOSTS_BYTES, Denied, Unusable, read_bytes
from proxy.config.findings import Finding, Loc
from proxy.config.keys import Kind
from proxy.config.private_keys import Content, recognise, unfit
from proxy.config.scrutiny import Scrutiny
from proxy.openssh.known_hosts import is_entry, is_line

NO_HOST_KEY: Final = "make it, once: kubemux ssh-server keygen"


def check_file(
    loc: Loc, path: Path, kind: Kind, scrutiny: Scrutiny, *, locked: bool = False, missing: str = ""
) -> Iterator[Finding]:
    """What is wrong with one file.

    `locked`: there is no passphrase file, so an encrypted key cannot be opened.
    `missing`: the remedy if it is a known_hosts file and does not exist.
    """
    try:
        data, status = read_bytes(
            path, limit=MAX_KNOWN_HOSTS_BYTES if kind is Kind.KNOWN_HOSTS else MAX_CREDENTIAL_BYTES
        )
    except Unusable as exc:
        hint = denied_hint(path, kind) if isinstance(exc, Denied) and is_for_system_service() else ""
        if isinstance(exc.__cause__, FileNotFoundError):
            hint = {Kind.KNOWN_HOSTS: missing, Kind.HOST_KEY: NO_HOST_KEY}.get(kind, hint)
        yield Finding(loc, f"{path} {exc}", _credential_hint(path) or hint or exc.hint)
        return
    too_open = kind.is_secret and is_too_open(path, status)
    # If others may read it, look at the contents at every level: `chmod 600` is no remedy for a public key.
    content = (
        recognise(data)
        if kind is Kind.HOST_KEY or (kind is Kind.PRIVATE_KEY and (too_open or scrutiny is Scrutiny.KEYS))
        else None
    )
    if content in {Content.PUBLIC, Content.OTHER}:
        yield _not_a_key(loc, path, content)
    elif too_open:
        mode = stat.S_IMODE(status.st_mode)
        hint = f"chmod {'600' if status.st_uid == os.geteuid() else 'o='} {path}"
        if status.st_uid != os.geteuid() != 0 and is_for_system_service():
            hint = f"chmod 600 {path}; {denied_hint(path, kind)}"
        yield Finding(loc, f"{path} is a secret that others may read (mode {mode:04o})", hint)
    elif content is Content.ENCRYPTED and kind is Kind.HOST_KEY:
        hint = f"a host key can have no passphrase; remove it: ssh-keygen -p -N '' -f {path}"
        yield Finding(loc, f"{path} is encrypted", hint)
    elif kind is Kind.HOST_KEY and (why := unfit(data)):
        hint = "name another file, and make it: kubemux ssh-server keygen"
        yield Finding(loc, f"{path} cannot be used: {why}", hint)
    elif content is Content.ENCRYPTED and locked:
        hint = "add passphrase_file: FILE; or ssh-add it, set agent: true, and remove it from identity_files"
        if is_for_system_service():
            hint = "add passphrase_file: FILE, which comes to the service as a credential, as the key does"
        yield Finding(loc, f"{path} is encrypted, and the gateway has no passphrase_file", hint)
    elif kind is Kind.CERTIFICATES:
        try:
            certificates.load_pem(data)
        except ValueError as exc:
            yield Finding(loc, f"{path} {exc}", "it should start with -----BEGIN CERTIFICATE-----")
    elif kind is Kind.KNOWN_HOSTS:
        yield from _not_known_hosts(loc, path, data)
    elif kind is Kind.REVOKED:
        try:
            authorized.revoked_in(data)
        except Unusable as exc:
            yield Finding(loc, f"{path} {exc}", exc.hint)
    elif kind is Kind.USERS:
        for number, message, hint in htpasswd.parse(data, path=path)[1]:
            yield Finding(loc, f"{path}:{number} {message}", hint)


def _not_known_hosts(loc: Loc, path: Path, data: bytes) -> Iterator[Finding]:
    """The finding about a file that has lines, but none of a known_hosts file.

    If only some lines are bad, they are skipped, as ssh(1) does, and `kubemux check` warns of them.
    """
    lines = data.split(b"\n")
    if any(map(is_entry, lines)):
        return
    bad = [number for number, line in enumerate(lines, 1) if not is_line(line)]
    if bad:
        more = f" (lines like it: {len(bad)})" if bad[1:] else ""
        hint = "a line reads: HOST[,HOST...] KEYTYPE BASE64; take some with ssh-keyscan -p PORT HOST"
        yield Finding(loc, f"{path}:{bad[0]} is not a known_hosts line{more}, and there is no other", hint)


def _not_a_key(loc: Loc, path: Path, content: Content | None) -> Finding:
    if content is not Content.PUBLIC:
        hint = "a private key, as ssh-keygen writes it, starts with -----BEGIN OPENSSH PRIVATE KEY-----"
        return Finding(loc, f"{path} is not a private key", hint)
    name = str(path).removesuffix(".pub").removesuffix("-cert")
    hint = (
        f"remove .pub: {name}"
        if name != str(path)
        else "name the file that ssh-keygen wrote beside it, without .pub"
    )
    return Finding(loc, f"{path} is a public key, not the private one", hint)


def _credential_hint(path: Path) -> str:
    if not path.is_relative_to(SERVICE_CREDENTIALS):
        return ""
    return (
        f"systemd hands it over while the service runs (LoadCredential={path.name}:FILE), and root may "
        "read it; "
        "before, try: CREDENTIALS_DIRECTORY=/etc/kubemux/keys kubemux ..."
    )


def denied_hint(path: Path, kind: Kind) -> str:
    """The remedy if the system service may not read a file: not chmod, which would show it to more users."""
    if kind is Kind.USERS:  # a credential is a copy, and would stay as it was at the start
        return f"let the service's group read it, and nobody else: chgrp kubemux {path}; chmod 640 {path}"
    if kind is Kind.HOST_KEY:  # `kubemux ssh-server keygen` makes it where it stays
        return f"give it to the service's user: chown kubemux {path}"
    if kind.is_secret:
        there = f"LoadCredential={path.name}:{path} in a drop-in of kubemux.service"
        return f'hand it over as a credential: {there}, and "${{CREDENTIALS_DIRECTORY}}/{path.name}" here'
    if any(map(path.is_relative_to, ("/home", "/root"))):
        return f"the service sees no home directories: install -m 644 {path} /etc/kubemux/{path.name}"
    return ""


def is_too_open(path: Path, status: os.stat_result) -> bool:
    """Whether too many users may read a secret.

    For our own files this is OpenSSH's rule: no permission for group and others. A file of another user must
    have none for others. A credential of systemd is excepted: its mode is 0440, but only the service can
    enter its folder (systemd.exec(5), LoadCredential=).
    """
    if path.is_relative_to(credentials_directory()) and ".." not in path.parts:
        return False
    return bool(status.st_mode & (0o077 if status.st_uid == os.geteuid() else 0o007))
