"""How fast is a bulk transfer when the gateway is far away?"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

from bench.columns import Gateway, Ports, Route, distinct_ports, routes
from bench.load import bulk
from bench.result import SSH, Answer, Row, Target
from bench.stage import Stage
from bench.waiting import ended, wait_listening
from tests.support.daemon import ROOT

PINGS = 5


def measure(stage: Stage) -> Answer:
    """Run iperf3 in each direction with several round trips. `direct` is the limit of the relay."""
    rows = []
    for round_trip in stage.scale.round_trips:
        ms = f"{round_trip * 1e3:.0f} ms"
        with far_routes(stage, round_trip) as ways:
            ping = Row(f"{ms}: a byte there and back", "ms", more_is_better=False)
            for route in ways:
                ping.add(route.column, echo_ms(route))
            rows.append(ping)
            for way in ("from", "to"):
                speed = Row(
                    f"{ms}: {way} the cluster",
                    "MB/s",
                    targets=(Target(SSH, 10),) if (round_trip, way) == (0.1, "from") else (),
                )
                for route in stage.interleaved(ways):
                    got = bulk(
                        route, stage.targets.bulk, seconds=stage.scale.far_seconds, from_cluster=way == "from"
                    )
                    speed.add(route.column, got.speed)
                rows.append(speed)
    notes = (
        "One iperf3 stream, its start included. The line is a relay process between client side and sshd "
        "that holds every "
        "byte for half the round trip; TCP ends at it, nothing is lost. `direct` is iperf3 through that "
        "relay: its own limit."
    )
    return Answer("distance", "Bulk transfer over a long line", notes, tuple(rows))


@contextmanager
def far_routes(stage: Stage, round_trip: float) -> Iterator[list[Route]]:
    """The columns, with the delay between each forwarder and its sshd; for `direct`, before the target.

    The TCP_NODELAY column is left out, because the option does not affect bulk transfers.
    """
    targets = (stage.stock.port, *stage.targets)
    ports = distinct_ports(len(targets))
    forwards = [f"{local}:{target}" for local, target in zip(ports, targets, strict=True)]
    with ended(
        subprocess.Popen([sys.executable, "-m", "bench.delay", str(round_trip), *forwards], cwd=ROOT)
    ) as process:
        wait_listening(ports, [process])
        stock = Gateway.of(stage.stock, ports[0])
        folder = stage.folder / f"routes-{round_trip}"
        with routes(folder, stage.targets, stock, None, Ports(*ports[1:])) as ways:
            yield ways


def echo_ms(route: Route) -> float:
    """The median round trip of one byte in ms. Raises RuntimeError if the echo server ends."""
    times = []
    with socket.create_connection(("127.0.0.1", route.ports.echo), timeout=30) as sock:
        for _ in range(PINGS):
            start = time.monotonic()
            sock.sendall(b"?")
            if not sock.recv(1):
                raise RuntimeError(f"{route.column}: the echo ended")
            times.append(time.monotonic() - start)
    return median(times) * 1e3
