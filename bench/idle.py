"""How much memory and CPU do a thousand idle clients of a hundred clusters need?"""

from __future__ import annotations

import asyncio

from bench.columns import Gateway
from bench.fleet import Fleet, api_server, daemon_fleet, ssh_fleet
from bench.memory import CLIENTS, close_clients, memory, open_clients
from bench.result import Answer, Row
from bench.stage import Stage
from tests.support.tls import Certificates


def measure(stage: Stage) -> Answer:
    """Measure each fleet without clients, and with TLS clients that are idle after one answer each."""
    count = stage.scale.clusters
    rows = (
        Row("memory without clients", "MB RSS", more_is_better=False),
        Row("memory", "MB RSS", more_is_better=False),
        Row("memory", "MB PSS", more_is_better=False),
        Row("CPU", "% of a core", more_is_better=False),
    )
    certificates = Certificates(stage.folder / "pki")
    gateway = Gateway.of(stage.stock)
    with api_server(certificates) as target:
        for n in range(stage.scale.repetitions):
            fleets = (
                ssh_fleet(gateway, target, count),
                daemon_fleet(stage.folder / f"daemon-{n}", gateway, target, count, certificates, shared=True),
            )
            for starting in fleets:
                with starting as fleet:
                    fleet.settle()
                    values = asyncio.run(with_clients(fleet, certificates, stage.scale.idle_seconds))
                for row, value in zip(rows, values, strict=True):
                    row.add(fleet.column, value)
    notes = (
        f"{CLIENTS:,} TLS connections over {count} clusters behind one sshd. kubemux is one process with 2 "
        "links and probes each "
        f"cluster every 10 s; ssh -L is {count} processes, RSS counts their shared pages each time, PSS once."
    )
    return Answer("idle", f"{CLIENTS:,} idle connections over {count} clusters", notes, rows)


async def with_clients(
    fleet: Fleet, certificates: Certificates, seconds: int
) -> tuple[float, float, float, float]:
    """RSS without clients, RSS and PSS with clients (MB), and the fleet's CPU in percent of a core."""
    empty = memory(fleet.pids)["Rss"]
    clients = await open_clients(fleet.ports, certificates)
    before = fleet.cpu_seconds()
    await asyncio.sleep(seconds)
    used = fleet.cpu_seconds() - before
    full = memory(fleet.pids)
    await close_clients(clients)
    return empty, full["Rss"], full["Pss"], used / seconds * 100
