"""How long do a hundred gateways take to come up, and how much memory do they need?"""

from __future__ import annotations

import time

from bench.columns import Gateway
from bench.fleet import api_server, daemon_fleet, ssh_fleet
from bench.memory import memory
from bench.result import KUBEMUX, SSH, Answer, Row, Target
from bench.stage import Stage
from tests.support.tls import Certificates


def measure(stage: Stage) -> Answer:
    """Measure the time from the start of the daemon until every link is up, and then its memory."""
    count = stage.scale.clusters
    start = Row(f"until {count} gateways are up", "s", more_is_better=False)
    used = Row("memory (kubemux RSS, ssh -L PSS)", "MB", more_is_better=False, targets=(Target(SSH, 0.4),))
    certificates = Certificates(stage.folder / "pki")
    gateway = Gateway.of(stage.stock)
    with api_server(certificates) as target:
        for n in range(stage.scale.repetitions):
            fleets = (
                ssh_fleet(gateway, target, count),
                daemon_fleet(
                    stage.folder / f"daemon-{n}", gateway, target, count, certificates, shared=False
                ),
            )
            for starting in fleets:
                began = time.monotonic()
                with starting as fleet:
                    start.add(fleet.column, time.monotonic() - began)
                    fleet.settle()
                    used.add(fleet.column, memory(fleet.pids)["Rss" if fleet.column == KUBEMUX else "Pss"])
    notes = (
        f"{count} gateways with one connection and one cluster each; ssh -L: {count} processes started at "
        "once. All lead to one "
        "sshd, to which kubemux keeps no more than 6 handshakes under way."
    )
    return Answer("gateways", f"{count} gateways", notes, (start, used))
