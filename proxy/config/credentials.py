"""Checks all files that a configuration names, section by section: whether they can be used, and what they
hold (`Inspection.fingerprint`). `credential_file.py` checks one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

from proxy.config import (
    authorized,
    known_hosts_warnings,
    server_tls,
    ssh_files,
    unix_files,
    unix_sockets,
)
from proxy.config.credential_file import check_file
from proxy.config.files import MAX_KNOWN_HOSTS_BYTES, Denied, Unusable, read_bytes
from proxy.config.findings import Finding, Loc, dotted
from proxy.config.model import (
    ClusterConfig,
    Config,
    EntryConfig,
    GatewayConfig,
    SiteConfig,
    SshServerConfig,
    UserConfig,
)
from proxy.config.references import Section, files, paths, references, sections
from proxy.config.scrutiny import Scrutiny
from proxy.config.ssh_agent import NO_AGENT, no_agent
from proxy.openssh import ssh_g
from proxy.runtime.blocking import FILES_S, Hangs, all_of


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
            if loc != _SHARED:  # the section whose file hangs reports it
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
"""If there are more sites and users than this, one thread checks them all: there may be 10,000.

Otherwise each is checked in its own thread.
"""


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
            yield from check_file((*loc, *below), path, kind, scrutiny, locked=locked, missing=missing)
    elif isinstance(section, ClusterConfig) and scrutiny > Scrutiny.NONE:
        for below, path, kind in references(section):
            if scrutiny > Scrutiny.CA or below == ("tls", "ca_file"):
                yield from check_file((*loc, *below), path, kind, scrutiny)
    elif isinstance(section, EntryConfig) and scrutiny > Scrutiny.CA:
        yield from _check_entry(loc, section, scrutiny)
    elif isinstance(section, SiteConfig | UserConfig) and scrutiny > Scrutiny.CA:
        found = authorized.read(loc, section)
        yield from found.findings
        if scrutiny is Scrutiny.KEYS:
            yield from found.warnings
    elif isinstance(section, SshServerConfig) and scrutiny > Scrutiny.CA:
        for below, path, kind in references(section):
            yield from check_file((*loc, *below), path, kind, scrutiny)


def _check_entry(loc: Loc, entry: EntryConfig, scrutiny: Scrutiny) -> Iterator[Finding]:
    is_each_good = True
    for below, path, kind in references(entry):
        for finding in check_file((*loc, *below), path, kind, scrutiny):
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
