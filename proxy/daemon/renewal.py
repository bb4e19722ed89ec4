"""Files that change under a running daemon: the keys, certificates, known_hosts, CAs, tokens and ssh_configs
it was told to use.

Their stamps are read every few seconds, in a thread. What has changed and then stayed as it is from one look
to the next (a file that is being written has not) renews what is made with it: gateways replace their links,
make before break, clusters are probed. What hangs counts as unchanged, and keeps no other file from being
read (`proxy/daemon/file_scan.py`). The configuration itself is not watched; it is read when somebody says so.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import structlog

from proxy.config import credentials, diff, references
from proxy.config.credentials import Look, Stamp
from proxy.config.findings import Finding, Loc
from proxy.config.model import Config
from proxy.daemon.daemon import Daemon
from proxy.daemon.file_scan import FileScan

log = structlog.get_logger("kubemux.renewal")

LOOK_S: Final = 5.0
"""Seconds between two scans. A change is used after the second scan; 200 files cost 1 ms of a thread."""


class Renewal:
    """Watches the files of one daemon. It changes nothing while a reload holds the lock `reloading`."""

    def __init__(self, daemon: Daemon, reloading: asyncio.Lock) -> None:
        self._daemon = daemon
        self._reloading = reloading
        self._scan = FileScan()
        self._settled: dict[Loc, dict[Path, Stamp | None]] = {}
        self._seen: dict[Loc, dict[Path, Stamp | None]] | None = None

    async def look(self) -> bool:
        """Renew what is made with files that have changed, and then stayed the same for one call; returns
        whether there were any.
        """
        daemon, config = self._daemon, self._daemon.graph.config
        sections = references.sections(config)
        stamps = await self._scan.run(sections, lambda _, section: credentials.stamps(section))
        settled, self._seen = stamps == self._seen, stamps
        if not settled or stamps == self._settled:
            return False
        found = await self._scan.run(sections, credentials.look_at)
        async with self._reloading:
            if daemon.is_draining or daemon.graph.config is not config:
                return False
            self._settled = stamps
            return self._take(config, list(found.values()))

    def _take(self, config: Config, found: list[Look]) -> bool:
        graph = self._daemon.graph
        fingerprint = {path: digest for look in found for path, digest in look.fingerprint.items()}
        changed = diff.changed(graph.fingerprint, fingerprint)
        graph.note_files(fingerprint | graph.fingerprint)  # some hung until now
        plan = diff.plan(config, config, changed)
        gateways, clusters = set(plan.gateways.renewed), set(plan.clusters.renewed)
        for section, names in (("gateways", gateways), ("clusters", clusters)):
            for finding in (finding for look in found for finding in look.findings):
                name = str(finding.loc[1])
                if finding.loc[0] == section and name in names:
                    names.discard(name)
                    changed -= self._refuse(config, finding, name)
        if not gateways and not clusters:
            return False
        log.info(
            "files changed",
            files=sorted(map(str, changed)),
            gateways=sorted(gateways),
            clusters=sorted(clusters),
        )
        graph.renew(gateways, clusters, {path: fingerprint[path] for path in changed})
        return True

    def _refuse(self, config: Config, finding: Finding, name: str) -> set[Path]:
        """Log why a changed file cannot be used, as a reload would.

        Links go on with the old contents. The files count as changed until they can be used.
        """
        section = config.gateways[name] if finding.loc[0] == "gateways" else config.clusters[name]
        key = ".".join(map(str, finding.loc))
        log.warning("changed file cannot be used", key=key, message=finding.message, hint=finding.hint)
        return set(references.paths(section))
