"""Checks the files that a configuration names: whether they can be used, and whether they have changed."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from enum import IntEnum, auto
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

from proxy.config import (
    authorized,
    certificates,
    htpasswd,
    known_hosts_warnings,
    server_tls,
    ssh_files,
    unix_files,
    unix_sockets,
)
from proxy.config.file_paths import SERVICE_CREDENTIALS, credentials_directory, is_for_system_service
from proxy.config.files import MAX_CREDENTIAL_BYTES, MAX_KNOWN_HOSTS_BYTES, Denied, Unusable, read_bytes
from proxy.config.findings import Finding, Loc, dotted
from proxy.config.keys import Kind
from proxy.config.model import (
    ClusterConfig,
    Config,
    EntryConfig,
    GatewayConfig,
    SiteConfig,
    SshServerConfig,
    UserConfig,
)
from proxy.config.private_keys import Content, recognise, unfit
from proxy.config.references import Section, files, paths, references, sections
from proxy.openssh import ssh_g
from proxy.openssh.known_hosts import is_entry, is_line
from proxy.runtime.blocking import FILES_S, Hangs, all_of, doing


class Scrutiny(IntEnum):
    """How thoroughly files are checked. Each level includes those before it."""

    NONE = auto()
    """No file is opened."""
    CA = auto()
    """Only `tls.ca_file`: the export of a kubeconfig needs no other file. This one is not secret."""
    FILES = auto()
    """Each file exists, can be read, has the right format, and is private if it must be. If not, the daemon
    does not start.
    """
    KEYS = auto()
    """Each file of `identity_files` is a private key, and an encrypted one has a passphrase file. Each line
    of `authorized_keys` can be used.

    If not, the daemon starts, but cannot use that gateway or key.
    """


Stamp = tuple[int, int, int, int]


def stamps(section: Section) -> dict[Path, Stamp | None]:
    """Inode, size, mtime and ctime (ns) of each file; None if it does not exist.

    Reading them is cheap. If a file has changed, they differ.
    """
    return {path: stamp(path) for path in paths(section)}


def stamp(path: Path) -> Stamp | None:
    doing(f"looking at {path}")  # shown to the user if it hangs
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


class Inspection(NamedTuple):
    """What a check of the files of one section, or of all sections, has found."""

    findings: tuple[Finding, ...] = ()
    """Each file that is missing, cannot be read, can be read by others, or has the wrong contents."""
    fingerprint: Mapping[Path, bytes] = MappingProxyType({})
    """SHA-256 of each file's contents, empty if it cannot be read. `diff.changed` compares it with an earlier
    one.
    """
    hanging: tuple[Finding, ...] = ()
    """Sections with a file whose disk or server does not answer. They are missing in the other two fields."""


def inspect(config: Config, scrutiny: Scrutiny = Scrutiny.FILES) -> Inspection:
    """Check all files of `config`, for at most FILES_S seconds. No message quotes their contents."""
    parts: dict[Loc, Callable[[], Inspection]] = {
        where: partial(_inspect_all, group, scrutiny) for where, group in _groups(sections(config)).items()
    }
    if scrutiny >= Scrutiny.FILES:
        parts[_SHARED] = lambda: Inspection(tuple(ssh_files.shared(config)))
        parts |= {
            (*loc, "listen"): partial(_inspect_listener, loc, one)
            for loc, one in unix_sockets.listening(config)
        }
    findings: list[Finding] = []
    fingerprint: dict[Path, bytes] = {}
    hanging = []
    for loc, part in all_of(parts, timeout=FILES_S).items():
        if isinstance(part, Hangs):
            if loc != _SHARED:  # each section says that of itself
                hanging.append(Finding(loc, str(part), HANGS))
        else:
            findings += part.findings
            fingerprint |= part.fingerprint
    return Inspection(tuple(findings), fingerprint, tuple(hanging))


def inspect_section(loc: Loc, section: Section, scrutiny: Scrutiny = Scrutiny.FILES) -> Inspection:
    """Check the files of the section at `loc`. It blocks, and has no deadline."""
    return Inspection(tuple(_check(loc, section, scrutiny)), {path: _digest(path) for path in paths(section)})


_SHARED: Final = ("sites", "users")
"""The place of the check whether two sites or users have the same key."""
MOST_APART: Final = 100
"""Up to this many sites and users are checked in a thread each, more of them in one: there may be 10,000."""


def _groups(found: Mapping[Loc, Section]) -> dict[Loc, Mapping[Loc, Section]]:
    """The sections that one thread checks, by the place that is shown if the check hangs."""
    many = {loc: one for loc, one in found.items() if isinstance(one, SiteConfig | UserConfig)}
    if len(many) <= MOST_APART:
        many = {}
    apart: dict[Loc, Mapping[Loc, Section]] = {
        loc: {loc: one} for loc, one in found.items() if loc not in many
    }
    return {**apart, ("sites",): many} if many else apart


def _inspect_all(group: Mapping[Loc, Section], scrutiny: Scrutiny) -> Inspection:
    looks = [inspect_section(loc, section, scrutiny) for loc, section in group.items()]
    return Inspection(
        tuple(finding for look in looks for finding in look.findings),
        {path: digest for look in looks for path, digest in look.fingerprint.items()},
    )


def _inspect_listener(loc: Loc, section: ClusterConfig | EntryConfig) -> Inspection:
    return Inspection(tuple(unix_files.check(loc, section)))


def check(config: Config, scrutiny: Scrutiny = Scrutiny.FILES) -> tuple[Finding, ...]:
    """All problems with the files of `config`, also of files that hang."""
    found = inspect(config, scrutiny)
    return found.findings + found.hanging


def _digest(path: Path) -> bytes:
    try:
        data, _ = read_bytes(path, limit=MAX_KNOWN_HOSTS_BYTES)
    except Unusable:
        return b""
    return hashlib.sha256(data).digest()


def _check(loc: Loc, section: Section, scrutiny: Scrutiny) -> Iterator[Finding]:
    if isinstance(section, GatewayConfig) and scrutiny > Scrutiny.CA:
        if section.ssh_config and not ssh_g.is_ssh_here():
            yield Finding(
                (*loc, "ssh_config"),
                "is read by ssh(1), which this machine does not have",
                ssh_g.NEEDS_SSH,
            )
        for below, path, kind in references(section):
            locked, missing = section.passphrase_file is None, known_hosts_warnings.missing(section, path)
            yield from _check_file((*loc, *below), path, kind, scrutiny, locked=locked, missing=missing)
    elif isinstance(section, ClusterConfig) and scrutiny > Scrutiny.NONE:
        for below, path, kind in references(section):
            if scrutiny > Scrutiny.CA or below == ("tls", "ca_file"):
                yield from _check_file((*loc, *below), path, kind, scrutiny)
    elif isinstance(section, EntryConfig) and scrutiny > Scrutiny.CA:
        yield from _check_entry(loc, section, scrutiny)
    elif isinstance(section, SiteConfig | UserConfig) and scrutiny > Scrutiny.CA:
        found = authorized.read(loc, section)
        yield from found.findings
        if scrutiny is Scrutiny.KEYS:
            yield from found.warnings
    elif isinstance(section, SshServerConfig) and scrutiny > Scrutiny.CA:
        for below, path, kind in references(section):
            yield from _check_file((*loc, *below), path, kind, scrutiny)


def _check_entry(loc: Loc, entry: EntryConfig, scrutiny: Scrutiny) -> Iterator[Finding]:
    is_each_good = True
    for below, path, kind in references(entry):
        for finding in _check_file((*loc, *below), path, kind, scrutiny):
            is_each_good = False
            yield finding
    if is_each_good and entry.tls.files is not None:
        try:
            server_tls.load(*entry.tls.files)
        except Unusable as exc:
            yield Finding((*loc, "tls", "key_file"), str(exc), exc.hint)


def denied(config: Config) -> list[Path]:
    """The files that this user may not read, or may not even see."""
    found = []
    for path in files(config):
        try:
            read_bytes(path, limit=MAX_KNOWN_HOSTS_BYTES)
        except Denied:
            found.append(path)
        except Unusable:  # another user could not read it either
            continue
    return found


def warnings(config: Config) -> Iterator[tuple[str, str]]:
    """Problems with which the daemon starts, but cannot use a gateway or a key; each with a remedy."""
    fatal = set(inspect(config).findings)
    for loc, message, hint in inspect(config, Scrutiny.KEYS).findings:
        if Finding(loc, message, hint) not in fatal:
            yield f"{dotted(loc)}: {message}", hint
    for name, gateway in config.gateways.items():
        if (
            gateway.agent
            and gateway.ssh_config is None
            and (why := no_agent(os.environ.get("SSH_AUTH_SOCK")))
        ):
            yield f"gateways.{name}.agent: {why}", NO_AGENT


HANGS: Final = (
    "its disk, or the server that it is mounted from, does not answer; all others are used meanwhile"
)

NO_HOST_KEY: Final = "make it, once: kubemux ssh-server keygen"
NO_AGENT: Final = (
    "start the daemon with SSH_AUTH_SOCK set to the socket of an ssh-agent that holds the "
    "key, or use identity_files"
)


def no_agent(path: str | None) -> str:
    """Why no ssh-agent can be used; empty if `path` is a socket."""
    if not path:
        return "SSH_AUTH_SOCK is not set"
    return "" if Path(path).is_socket() else f"there is no agent at {path}"


def _check_file(
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
        hint = _denied_hint(path, kind) if isinstance(exc, Denied) and is_for_system_service() else ""
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
            hint = f"chmod 600 {path}; {_denied_hint(path, kind)}"
        yield Finding(loc, f"{path} is a secret that others may read (mode {mode:04o})", hint)
    elif content is Content.ENCRYPTED and kind is Kind.HOST_KEY:
        hint = "nobody is there to type a passphrase: ssh-keygen -p -N '' -f FILE takes it off"
        yield Finding(loc, f"{path} is encrypted", hint)
    elif kind is Kind.HOST_KEY and (why := unfit(data)):
        hint = "name another file, and make it: kubemux ssh-server keygen"
        yield Finding(loc, f"{path} cannot be used: {why}", hint)
    elif content is Content.ENCRYPTED and locked:
        hint = "add passphrase_file: FILE; or ssh-add it, say agent: true and take it out of identity_files"
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


def _denied_hint(path: Path, kind: Kind) -> str:
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
