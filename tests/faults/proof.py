"""Runs a row on its bed, and compares what happened with what the row says."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from tests.faults.bed import CLUSTERS, Bed
from tests.faults.client import Saw
from tests.faults.law import Counts, agree_on_clients, agree_on_links, agreed, returned, settled
from tests.faults.load import Load, eventually
from tests.faults.row import LEAVING, LONG_S, NOTHING, Hits, Row, nothing
from tests.support.tls import Certificates

STILL_SERVED: Final = 5
"""How many requests of each client must be served to show that the fault does not affect it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A line of the table that a run prints."""

    row: str
    plane: str
    clients: str
    others: str
    recovery: float | None
    """Seconds from the fault's end to the first request served; None if no client was interrupted."""
    leaks: str
    says: str
    """The reasons and results that status and metrics show for the fault."""

    def record(self) -> dict[str, object]:
        """The finding as values for pytest's `record_property`."""
        return asdict(self)


async def prove(row: Row, folder: Path, certificates: Certificates, *, plane: str) -> Finding:
    """Run the row while clients work. Raises AssertionError if anybody sees anything that the row does not
    say.
    """
    async with Bed(row, folder, certificates, plane=plane) as bed:
        before = await settled(bed.daemon, *bed.ends.values())
        async with bed.load() as loads:
            if row.has_short_turns:
                bed.shim.forget_turns()
            recovery = await _fault(bed, loads)
            if row.has_short_turns:
                assert 0 < bed.shim.longest_turn < LONG_S, f"a turn took {bed.shim.longest_turn} s of CPU"
        hit, spared = (
            [load for name, load in loads.items() if (name in bed.hit) == is_hit] for is_hit in (True, False)
        )
        seen = sum((load.seen for load in hit), Counter[Saw]())
        assert seen.keys() <= row.clients | row.may_see, (
            f"clients saw {dict(seen)}: {[load.clients for load in hit]}"
        )
        if row.is_partial:
            assert any(not client.seen for load in hit for client in load.clients), (
                "the row says that only some clients see the fault, and all of them saw it"
            )
        for load in spared:
            assert load.is_unbroken, f"clients of {load.name} saw {load.clients}"
        await returned(before, bed.daemon, *bed.ends.values())
        await bed.wait_let_go()
        if not row.restarts:
            await agreed(lambda: _agree(bed, loads))
        others = sum((load.seen for load in spared), Counter[Saw]())
        return Finding(
            row=row.name,
            plane=plane,
            clients=_listed(seen),
            others=_listed(others) if row.hits is not Hits.ALL else "-",
            recovery=recovery,
            leaks="none",
            says=", ".join(
                dict.fromkeys(filter(None, (row.gateway, row.lost, row.probe, *sorted(row.results))))
            ),
        )


async def _fault(bed: Bed, loads: dict[str, Load]) -> float | None:
    row, loop = bed.row, asyncio.get_running_loop()
    hit = [loads[name] for name in bed.hit]
    for load in hit:
        load.expect()
    await row.breaks(bed)
    since = loop.time()
    if row.is_partial:
        await eventually(
            lambda: f"somebody sees one of {sorted(row.clients)}: {hit}",
            lambda: any(row.clients & load.seen.keys() for load in hit),
        )
    elif row.clients:
        await asyncio.gather(*(load.wait_seen(row.clients) for load in hit))
    if row.gateway:
        await bed.wait_reason(row.gateway)
    if row.probe:
        await bed.wait_for(
            f"probes say {row.probe}",
            lambda: all(
                bed.daemon.metric("kubemux_probes_total", cluster=name, result=row.probe) for name in bed.hit
            ),
        )
    for name, load in loads.items():
        if not row.clients or row.is_partial or name not in bed.hit:
            await load.wait_served(times=STILL_SERVED)
    if not row.restarts:
        await bed.wait_for(f"connections end by {sorted(row.results)}", lambda: _has_met_all(bed))
    if row.mends is not nothing:  # without it, the fault ended when it began
        for load in hit:
            load.expect()
        since = loop.time()
        await row.mends(bed)
    back = [await load.wait_back(since, seconds=row.within) for load in hit]
    return min(filter(None, back), default=0.0) if row.clients else None


def _results(bed: Bed, counts: Counts) -> dict[str, frozenset[str]]:
    """The results of the connections of each cluster that have ended."""
    metric, _, label = bed.row.by.counts
    return {name: counts.labels(metric, "result", **{label: name}) for name in CLUSTERS}


def _has_met_all(bed: Bed) -> bool:
    """Whether each affected cluster has all results that the row expects; together, if the row is partial."""
    row, results = bed.row, _results(bed, Counts(bed.daemon))
    met = [results[name] for name in bed.hit]
    return all(row.results - row.may <= one for one in ([frozenset().union(*met)] if row.is_partial else met))


def _agree(bed: Bed, loads: dict[str, Load]) -> None:
    """Compare the daemon's counters with the row, and with what the clients and the sshds counted.

    Raises AssertionError.
    """
    row, counts = bed.row, Counts(bed.daemon)
    made = {name: load.connected for name, load in loads.items()}
    agree_on_clients(counts, row.by, {**made, "plain": bed.visitors})
    for name, results in _results(bed, counts).items():
        expected = row.results if name in bed.hit else NOTHING
        assert results <= expected | row.may | LEAVING, f"connections of {name} ended by {sorted(results)}"
    lost = counts.labels("gateway_reconnects_total", "reason", gateway="edge")
    wanted = {row.lost} if row.lost else set()
    # If a new link is up already when the row calls `reconnect`, that link is replaced. And a link that
    # misses an answer because the machine is busy is replaced before it counts as lost.
    may = {"replaced"} if bed.has_reconnected or "keepalive" in row.edge else set()
    assert wanted <= lost <= wanted | may, f"links were lost by {sorted(lost)}"
    assert not counts.labels("gateway_reconnects_total", "reason", gateway="far")
    if row.log is None:  # agree_on_links reads the log
        agree_on_links(counts, bed.daemon, **bed.ends)


def _listed(seen: Counter[Saw]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(seen.items())) or "nothing"
