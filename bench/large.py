"""How long do answers take that are larger than an SSH packet, as those to kubectl often are?"""

from __future__ import annotations

from bench.load import keep_alive
from bench.result import Answer, Row
from bench.stage import Stage


def measure(stage: Stage) -> Answer:
    """Run wrk with one connection. nginx answers with files of several sizes."""
    rows = []
    with stage.routes() as ways:
        for size in stage.scale.answers:
            name = f"{size >> 10} KiB an answer"
            rate = Row(name, "requests/s")
            p50 = Row(name, "p50 in ms", more_is_better=False)
            p99 = Row(name, "p99 in ms", more_is_better=False)
            for route in stage.interleaved(ways):
                got = keep_alive(route, connections=1, seconds=stage.scale.seconds, path=f"/answers/{size}")
                for row, value in zip((rate, p50, p99), got[:3], strict=True):
                    row.add(route.column, value)
            rows += [rate, p50, p99]
    return Answer(
        "large", "Large answers", "wrk with one connection against nginx, one request at a time.", tuple(rows)
    )
