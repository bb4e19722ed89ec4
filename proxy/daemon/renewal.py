"""Watches the files that the configuration names: keys, certificates, known_hosts, CAs, tokens, users.

A thread reads their stamps every few seconds. A changed file is used when two scans in a row have found the
same stamps: a file that is being written changes between the scans. If some file changes all the time, the
changed files are used after MOST_SCANS nevertheless. Then a gateway that uses the file replaces
its links, make before break. A cluster that uses it is probed. An entry and the SSH server read it again. A
file that hangs counts as unchanged, and the other files are still read (`proxy/daemon/file_scan.py`). The
configuration itself is not watched: only a reload reads it.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import structlog

from proxy.config import credentials, diff, references
from proxy.config.credentials import Inspection
from proxy.config.findings import Finding, Loc, dotted
from proxy.config.model import Config
from proxy.config.stamps import Stamp, stamps_of
from proxy.daemon.daemon import Daemon
from proxy.daemon.file_scan import FileScan

log = structlog.get_logger("kubemux.renewal")

_LOGINS: Final = {"sites", "users", *references.SSH_SERVER}
"""The sections whose files the SSH server reads."""
SCAN_S: Final = 5.0
"""Seconds between two scans. A scan of 200 files takes a thread 1 ms."""
MOST_SCANS: Final = 3
"""A change is used in this scan, counted from the one that has found it, even if files still change."""


class Renewal:
    """Watches the files of one daemon. It changes nothing while a reload holds the lock `reloading`."""

    def __init__(self, daemon: Daemon, reloading: asyncio.Lock) -> None:
        self._daemon = daemon
        self._reloading = reloading
        self._scan = FileScan()
        self._settled: dict[Loc, dict[Path, Stamp | None]] = {}
        self._seen: dict[Loc, dict[Path, Stamp | None]] | None = None
        self._unused = 0
        """How many scans in a row have found changes that are not used yet."""

    async def renew_changed(self) -> bool:
        """Scan the files once. Renew what uses a file that has changed: if all stamps were the same in the
        previous call, or if this is the MOST_SCANS-th call that finds a change. Returns whether there was
        any.
        """
        daemon, config = self._daemon, self._daemon.graph.config
        sections = references.sections(config)
        stamps = await self._scan.run(sections, lambda _, section: stamps_of(section))
        settled, self._seen = stamps == self._seen, stamps
        self._unused = self._unused + 1 if stamps != self._settled else 0
        if not self._unused or (not settled and self._unused < MOST_SCANS):
            return False
        found = await self._scan.run(sections, credentials.inspect_section)
        async with self._reloading:
            if daemon.is_draining or daemon.graph.config is not config:
                return False
            before, self._settled, self._unused = self._settled, stamps, 0
            # The stamp counts here, not only the contents: who may write to the file decides whether it is
            # used.
            touched = {
                loc for loc in stamps if loc[0] in _LOGINS and loc in before and before[loc] != stamps[loc]
            }
            return self._apply(config, list(found.values()), touched)

    def _apply(self, config: Config, found: list[Inspection], touched: set[Loc]) -> bool:
        graph = self._daemon.graph
        fingerprint = {path: digest for look in found for path, digest in look.fingerprint.items()}
        changed = diff.changed(graph.fingerprint, fingerprint)
        graph.note_files(fingerprint | graph.fingerprint)  # with files that hung until now
        plan = diff.plan(config, config, changed)
        gateways, clusters = set(plan.gateways.renewed), set(plan.clusters.renewed)
        entries = set(plan.entries.renewed)
        logins = touched | {("sites", name) for name in plan.sites.renewed}
        logins |= {("users", name) for name in plan.users.renewed}
        if plan.ssh_server.renewed:
            logins.add(references.SSH_SERVER)
        for section, names in (("gateways", gateways), ("clusters", clusters), ("entries", entries)):
            for finding in (finding for look in found for finding in look.findings):
                if finding.loc[0] == section and (name := str(finding.loc[1])) in names:
                    names.discard(name)
                    changed -= self._refuse(config, finding, name)
        # A site or user whose file cannot be used is not refused here: ServedSsh drops and logs its keys.
        if not gateways and not clusters and not entries and not logins:
            return False
        log.info(
            "files changed",
            files=sorted(map(str, changed)),
            gateways=sorted(gateways),
            clusters=sorted(clusters),
            entries=sorted(entries),
            logins=sorted(map(dotted, logins)),
        )
        graph.renew(gateways, clusters, entries, logins, {path: fingerprint[path] for path in changed})
        return True

    def _refuse(self, config: Config, finding: Finding, name: str) -> set[Path]:
        """Log why a changed file cannot be used, as a reload would. Returns the files of its section.

        Links keep what they have read before. The files count as changed until they can be used.
        """
        section = references.sections(config)[finding.loc[0], name]
        key = ".".join(map(str, finding.loc))
        log.warning("changed file cannot be used", key=key, message=finding.message, hint=finding.hint)
        return set(references.paths(section))
