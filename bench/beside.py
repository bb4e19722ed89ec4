"""How much does a bulk download slow down the small requests beside it?"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from bench.columns import Route
from bench.load import Bulk, Requests, bulk, keep_alive
from bench.result import SSH, Answer, Row, Target
from bench.stage import Stage

MARGIN_SECONDS = 1
"""The download starts this many seconds before the requests, and ends this many seconds after them."""


def measure(stage: Stage) -> Answer:
    """wrk with one connection while iperf3 downloads through the same forwarder."""
    rate = Row("requests beside a download", "requests/s")
    p50 = Row("requests beside a download", "p50 in ms", more_is_better=False)
    p99 = Row("requests beside a download", "p99 in ms", more_is_better=False, targets=(Target(SSH, 0.5),))
    speed = Row("the download", "MB/s")
    with stage.routes() as ways:
        for route in stage.interleaved(ways):
            download, requests = both(route, stage)
            for row, value in zip((rate, p50, p99, speed), (*requests[:3], download.speed), strict=True):
                row.add(route.column, value)
    notes = (
        "wrk with one connection, one iperf3 stream from the cluster. kubemux has 2 links and may keep "
        "them apart."
    )
    return Answer("beside", "Requests beside bulk", notes, (rate, p50, p99, speed))


def both(route: Route, stage: Stage) -> tuple[Bulk, Requests]:
    """Measure one download with requests beside it. Raises RuntimeError if the download ended first."""
    with ThreadPoolExecutor(1, thread_name_prefix="download") as pool:
        download = pool.submit(
            bulk,
            route,
            stage.targets.bulk,
            seconds=stage.scale.seconds + 2 * MARGIN_SECONDS,
            from_cluster=True,
        )
        threading.Event().wait(MARGIN_SECONDS)
        requests = keep_alive(route, connections=1, seconds=stage.scale.seconds)
        if download.done():
            download.result()
            raise RuntimeError(f"{route.column}: the download ended before the requests beside it")
        return download.result(), requests
