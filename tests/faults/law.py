"""The leak law: after any storm the daemon holds what it held before, and its
counters say what others saw."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from tests.support.daemon import Daemon
from tests.support.sshd import Sshd

SETTLE_S: Final = 20.0
"""Seconds to wait until abandoned work has ended: sshd's answers, a second link, a probe's deadline."""


@dataclass(frozen=True, slots=True)
class Holdings:
    """The resources that the daemon, and the sshds for it, hold at one moment."""

    tasks: int
    descriptors: int
    channels: int
    connections: int
    buffered_bytes: int
    links: int
    missing: int
    """Links that should be up and are not."""
    sessions: int
    """Processes of the sshds' sessions."""

    @property
    def is_idle(self) -> bool:
        """Whether there is no client, no probe and no buffered byte, and every link is up."""
        return not (self.channels or self.connections or self.buffered_bytes or self.missing)

    def above(self, before: Holdings) -> list[str]:
        """The resources that it holds more of than `before`, in words; empty if nothing leaks."""
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


def measure(daemon: Daemon, *sshds: Sshd) -> Holdings:
    """Measure what they hold now. Blocks."""
    status = json.loads(daemon.get("/status")[1])
    links = [link for gateway in status["gateways"] for link in gateway["links"]]
    return Holdings(
        tasks=int(daemon.metric("kubemux_tasks")),
        descriptors=len(list(Path(f"/proc/{daemon.pid}/fd").iterdir())),
        channels=sum(link["channels"] for link in links),
        connections=status["daemon"]["connections"],
        buffered_bytes=status["daemon"]["buffered_bytes"],
        links=len(links),
        missing=sum(gateway["wanted"] for gateway in status["gateways"]) - len(links),
        sessions=sum(len(sshd.sessions()) for sshd in sshds),
    )


async def settled(daemon: Daemon, *sshds: Sshd) -> Holdings:
    """Wait until the daemon is idle; returns what it holds then. Raises AssertionError if it never is."""
    return await asyncio.to_thread(_settle, daemon, sshds, None)


async def returned(before: Holdings, daemon: Daemon, *sshds: Sshd) -> Holdings:
    """Wait until the daemon holds no more than `before`. Raises AssertionError, which names what leaked."""
    return await asyncio.to_thread(_settle, daemon, sshds, before)


def _settle(daemon: Daemon, sshds: tuple[Sshd, ...], before: Holdings | None) -> Holdings:
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
    """One scrape of the metrics. It returns the sum of samples of a name and labels, without `kubemux_`."""

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


def agree_on_clients(counts: Counts, made: Mapping[str, int]) -> None:
    """Every connection that was made to a cluster has ended and was counted, once. Raises AssertionError."""
    for name, number in made.items():
        ended = counts("connections_total", cluster=name)
        assert ended == number, f"{name}: {ended} connections ended, its clients made {number}"
        assert counts("connections_active", cluster=name) == 0


def agree_on_links(counts: Counts, daemon: Daemon, **sshds: Sshd) -> None:
    """Every link of a gateway is up or its end is in the log, and its sshd knows of all.

    Raises AssertionError.
    """
    ends = [event for event in daemon.events() if event["event"] in ("link lost", "link closed")]
    for name, sshd in sshds.items():
        opened = counts("gateway_connects_total", gateway=name, result="ok")
        closed = sum(end["gateway"] == name for end in ends)
        assert opened == closed + counts("gateway_links", gateway=name), (
            f"{name}: {opened} links opened, {closed} closed"
        )
        accepted = sshd.log().count("Accepted publickey")
        assert accepted >= opened, f"{name}: {opened} links, but sshd accepted {accepted}"
