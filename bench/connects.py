"""How many new connections per second are possible, and how long does the first answer on each take?"""

from __future__ import annotations

from bench.load import connect
from bench.result import NODELAY, SSH, Answer, Row, Target
from bench.stage import Stage

COUNT = 20_000
"""The maximum number of connections in one measurement."""


def measure(stage: Stage) -> Answer:
    """Run ab without keep-alive."""
    rows = (
        Row("new connections", "1/s", targets=(Target(SSH, 10), Target(NODELAY, 1.0))),
        Row("connect, request, answer", "p50 in ms", more_is_better=False),
        Row("connect, request, answer", "p99 in ms", more_is_better=False),
        Row("new connection", "CPU us", more_is_better=False),
    )
    with stage.routes() as ways:
        for route in stage.interleaved(ways):
            for row, value in zip(
                rows, connect(route, count=COUNT, seconds=stage.scale.seconds), strict=True
            ):
                row.add(route.column, value)
    return Answer("connects", "A new connection for each request", "ab, 16 at a time, against nginx.", rows)
