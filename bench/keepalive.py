"""How long does a small request take on a kept connection, and how many per second are possible?"""

from __future__ import annotations

from bench.load import keep_alive
from bench.result import NODELAY, SSH, Answer, Row, Target
from bench.stage import Stage


def measure(stage: Stage) -> Answer:
    """Run wrk against nginx, which answers with three bytes."""
    rows = []
    with stage.routes() as ways:
        for count in stage.scale.connections:
            name = f"{count} connection{'s' if count > 1 else ''}"
            rate = Row(
                name, "requests/s", targets=(Target(SSH, 1.2), Target(NODELAY, 1.0)) if count == 32 else ()
            )
            p50 = Row(name, "p50 in ms", more_is_better=False)
            p99 = Row(
                name, "p99 in ms", more_is_better=False, targets=(Target(SSH, 0.02),) if count == 1 else ()
            )
            cpu = Row(name, "CPU us per request", more_is_better=False)
            for route in stage.interleaved(ways):
                got = keep_alive(route, connections=count, seconds=stage.scale.seconds)
                for row, value in zip((rate, p50, p99, cpu), got, strict=True):
                    row.add(route.column, value)
            rows += [rate, p50, p99, cpu]
    notes = "wrk with one thread against nginx, 3 bytes an answer, one request at a time on each connection."
    return Answer("keepalive", "Requests on connections that are kept", notes, tuple(rows))
