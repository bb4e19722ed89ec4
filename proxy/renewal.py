"""Files that change under a running daemon: the keys, certificates, known_hosts, CAs, tokens and ssh_configs it was told to use.

Their stamps are read every few seconds, in a thread. What has changed and then stayed as it is from one look to the next (a file
that is being written has not) renews what is made with it: gateways replace their links, make before break, clusters are probed.
No look at the configuration itself: that is taken when somebody says so.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import structlog

from proxy.config import credentials, diff
from proxy.config.credentials import Stamp
from proxy.config.model import Config
from proxy.config.rules import Finding
from proxy.daemon import Daemon

log = structlog.get_logger("kubemux.renewal")

LOOK_S: Final = 5.0
"""Between looks. A change is taken after two of them; 200 files cost 1 ms of a thread."""


class Renewal:
    """What was seen of the files of one daemon."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._settled: dict[Path, Stamp | None] = {}
        self._seen: dict[Path, Stamp | None] | None = None

    async def look(self) -> bool:
        """Take what has changed and settled since the last call; whether there was something. Not during a reload."""
        daemon, config = self._daemon, self._daemon.config
        stamps = await asyncio.to_thread(credentials.stamps, config)
        settled, self._seen = stamps == self._seen, stamps
        if not settled or stamps == self._settled:
            return False
        self._settled = stamps
        fingerprint, findings = await asyncio.to_thread(_read, config)
        return not daemon.is_draining and self._take(config, fingerprint, findings)

    def _take(self, config: Config, fingerprint: dict[Path, bytes], findings: list[Finding]) -> bool:
        daemon = self._daemon
        changed = diff.changed(daemon.fingerprint, fingerprint)
        plan = diff.plan(config, config, changed)
        gateways, clusters = set(plan.gateways.renewed), set(plan.clusters.renewed)
        for section, names in (("gateways", gateways), ("clusters", clusters)):
            for finding in findings:
                name = str(finding.loc[1])
                if finding.loc[0] == section and name in names:
                    names.discard(name)
                    changed -= self._refuse(config, finding, name)
        if not gateways and not clusters:
            return False
        daemon.fingerprint |= {path: fingerprint[path] for path in changed}
        log.info("files changed", files=sorted(map(str, changed)), gateways=sorted(gateways), clusters=sorted(clusters))
        for name in gateways:
            daemon.gateways[name].renew("files changed")
        for name in clusters:
            daemon.entries[name].monitor.poke()
        return True

    def _refuse(self, config: Config, finding: Finding, name: str) -> set[Path]:
        """As a reload would. Links go on with what they were made with; the files count as changed until they can be used."""
        section = config.gateways[name] if finding.loc[0] == "gateways" else config.clusters[name]
        key = ".".join(map(str, finding.loc))
        log.warning("changed file cannot be used", key=key, message=finding.message, hint=finding.hint)
        return set(credentials.paths(section))


def _read(config: Config) -> tuple[dict[Path, bytes], list[Finding]]:
    return credentials.fingerprint(config), list(credentials.check(config))
