"""The leak law: after any load the daemon holds no more resources than before, and its counters agree with
what clients and sshds counted.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from tests.faults.row import By
from tests.faults.site_edge import SiteEdge
from tests.support.daemon import Daemon
from tests.support.sshd import Sshd

Edge = Sshd | SiteEdge

SETTLE_S: Final = 60.0
"""Seconds to wait for work that still runs: sshd's answers, the dial of a second link, a probe's deadline."""


@dataclass(frozen=True, slots=True)
class Holdings:
    """The resources that the daemon and its sshds hold at one moment."""

    tasks: int
    descriptors: int
    channels: int
    connections: int
    buffered_bytes: int
    links: int
    missing: int
    """How many links are configured and not up."""
    sessions: int
    """How many session processes the sshds have."""

    @property
    def is_idle(self) -> bool:
        """Whether there are no clients, no probes and no buffered bytes, and every link is up."""
        return not (self.channels or self.connections or self.buffered_bytes or self.missing)

    def above(self, before: Holdings) -> list[str]:
        """One sentence for each resource of which there is more than in `before`; empty if nothing leaks."""
        wanted = {
            "tasks": before.tasks,
            "descriptors": before.descriptors,
            "links": before.links,
            "sessions": before.sessions,
        }
        more = [
            f"{name} {getattr(self, name)}, were {held}"
            for name, held in wanted.items()
            if getattr(self, name) > held
        ]
        left = [
            f"{name} {getattr(self, name)}"
            for name in ("channels", "connections", "buffered_bytes", "missing")
        ]
        return more + [text for text in left if not text.endswith(" 0")]


def measure(daemon: Daemon, *sshds: Edge) -> Holdings:
    """The resources of the daemon and these sshds now. Blocks."""
    status = json.loads(daemon.get("/status")[1])
    sites = status["sites"]
    links = [link for one in (*status["gateways"], *sites) for link in one["links"]]
    return Holdings(
        tasks=int(daemon.metric("kubemux_tasks")),
        descriptors=len(list(Path(f"/proc/{daemon.pid}/fd").iterdir())),
        channels=sum(link["channels"] for link in links),
        connections=status["daemon"]["connections"],
        buffered_bytes=status["daemon"]["buffered_bytes"],
        links=len(links),
        missing=sum(gateway["wanted"] - len(gateway["links"]) for gateway in status["gateways"]),
        sessions=sum(len(sshd.sessions()) for sshd in sshds),
    )


async def settled(daemon: Daemon, *sshds: Edge) -> Holdings:
    """Wait until the daemon is idle. Returns its resources. Raises AssertionError if it does not
    become idle.
    """
    return await asyncio.to_thread(_settle, daemon, sshds, None)


async def returned(before: Holdings, daemon: Daemon, *sshds: Edge) -> Holdings:
    """Wait until the daemon holds no more than `before`. Raises AssertionError that names what leaked."""
    return await asyncio.to_thread(_settle, daemon, sshds, before)


def _settle(daemon: Daemon, sshds: tuple[Edge, ...], before: Holdings | None) -> Holdings:
    deadline = time.monotonic() + SETTLE_S
    while True:
        held = measure(daemon, *sshds)
        above = held.above(before or held)
        if not above:
            return held
        if time.monotonic() > deadline:
            raise AssertionError(
                f"leaked, {SETTLE_S:g} s after the last client: {', '.join(above)}\n{daemon.log()}"
            )
        time.sleep(0.1)


class Counts:
    """One scrape of the metrics. A call returns the sum of the samples of a name (without `kubemux_`) and
    labels.
    """

    def __init__(self, daemon: Daemon) -> None:
        families = text_string_to_metric_families(daemon.get("/metrics")[1])
        self._samples = [sample for family in families for sample in family.samples]

    def __call__(self, name: str, **labels: str) -> int:
        found = (
            s.value
            for s in self._samples
            if s.name == f"kubemux_{name}" and labels.items() <= s.labels.items()
        )
        return int(sum(found))

    def labels(self, name: str, label: str, **labels: str) -> frozenset[str]:
        """The values of `label` among the samples of that name that are not zero."""
        return frozenset(
            s.labels[label]
            for s in self._samples
            if s.name == f"kubemux_{name}" and labels.items() <= s.labels.items() and s.value
        )


async def agreed(agree: Callable[[], None]) -> None:
    """Call `agree` in a thread again and again until it raises no AssertionError.

    The daemon may accept a client a moment after that has left. And a link may be lost after the metrics were
    read, and before the log is.
    """
    deadline = time.monotonic() + SETTLE_S
    while True:
        try:
            return await asyncio.to_thread(agree)
        except AssertionError:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(0.1)


def agree_on_clients(counts: Counts, by: By, made: Mapping[str, int]) -> None:
    """Check that every connection to a cluster, or a node, has ended, and was counted once.

    Raises AssertionError.
    """
    ended, active, label = by.counts
    for name, number in made.items():
        found = counts(ended, **{label: name})
        assert found == number, f"{name}: {found} connections ended, its clients made {number}"
    assert counts(active) == 0


def agree_on_links(counts: Counts, daemon: Daemon, **sshds: Edge) -> None:
    """Check that each link of a gateway is up or its end is in the log, and that sshd accepted as many.

    Raises AssertionError.
    """
    ends = [event for event in daemon.events() if event["event"] in ("link lost", "link closed")]
    for name, sshd in sshds.items():
        opened = counts("gateway_connects_total", gateway=name, result="ok")
        closed = sum(end["gateway"] == name for end in ends)
        assert opened == closed + counts("gateway_links", gateway=name), (
            f"{name}: {opened} links opened, {closed} closed"
        )
        logins = sshd.logins()
        assert logins >= opened, f"{name}: {opened} links, but there were {logins} logins"
