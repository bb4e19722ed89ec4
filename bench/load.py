"""Runs iperf3, wrk, ab and curl on one route, checks and parses their reports, and measures the forwarder's
CPU time.
"""

from __future__ import annotations

import csv
import json
import re
import subprocess
import tempfile
import time
from typing import NamedTuple

from bench.columns import Route
from bench.servers import iperf3
from bench.waiting import cpu_seconds
from tests.support.parts import find

GRACE_SECONDS = 60
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class Bulk(NamedTuple):
    """A transfer: the speed in MB/s (10^6 bytes), and the forwarder's CPU seconds per GB (10^9 bytes)."""

    speed: float
    cpu: float | None


class Opened(NamedTuple):
    """New connections: the rate per second, and the forwarder's CPU for each in us."""

    rate: float
    cpu: float


class Requests(NamedTuple):
    """Requests: the rate per second, two percentiles in ms, and the forwarder's CPU for each in us."""

    rate: float
    p50: float
    p99: float
    cpu: float | None


def _run(arguments: list[str], seconds: int) -> str:
    """Run a load, and return what it printed. Raises RuntimeError with its message if it fails or hangs."""
    program = arguments[0]
    try:
        done = subprocess.run(
            [find(program) or program, *arguments[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds + GRACE_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{' '.join(arguments)} did not end {GRACE_SECONDS} s after its time") from None
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def _cpu(route: Route) -> float:
    return 0.0 if route.pid is None else cpu_seconds(route.pid)


def bulk(route: Route, server: int, *, seconds: int, streams: int = 1, from_cluster: bool = False) -> Bulk:
    """Run iperf3 to its `server` port through `route`, for so many `seconds`. Slow start is included, because
    a client sees it, too.
    """
    arguments = ["iperf3", "--client", "127.0.0.1", "--port", str(route.ports.bulk), "--time", str(seconds)]
    arguments += ["--parallel", str(streams), "--json", *(["--reverse"] if from_cluster else [])]
    with iperf3(server):
        before = _cpu(route)
        report = json.loads(_run(arguments, seconds))
        used = _cpu(route) - before
    # A test that was cut off has no sum, although iperf3's exit code is 0.
    received = report["end"].get("sum_received")
    if not received or not received["bytes"]:
        raise RuntimeError(f"{route.column}: iperf3 transferred nothing: {report.get('error', 'no reason')}")
    cpu = None if route.pid is None else used / (received["bytes"] / 1e9)
    return Bulk(received["bits_per_second"] / 8e6, cpu)


def keep_alive(route: Route, *, connections: int, seconds: int, path: str = "/") -> Requests:
    """Run wrk with so many `connections`, each with one request at a time."""
    arguments = [
        "wrk",
        "--threads",
        "1",
        "--connections",
        str(connections),
        "--duration",
        f"{seconds}s",
        "--timeout",
        "60s",
        "--latency",
    ]
    before = _cpu(route)
    said = _run([*arguments, f"http://127.0.0.1:{route.ports.http}{path}"], seconds)
    return read_wrk(said, None if route.pid is None else _cpu(route) - before)


def read_wrk(said: str, cpu: float | None) -> Requests:
    """Parse wrk's report. Raises RuntimeError if a request failed."""
    if failed := re.search(r"(Non-2xx|Socket errors).*", said):
        raise RuntimeError(f"wrk: {failed[0]}")
    found = {
        name: re.search(pattern, said)
        for name, pattern in (
            ("count", r"(\d+) requests in"),
            ("rate", r"Requests/sec:\s+([\d.]+)"),
            ("p50", r"50%\s+([\d.]+)(\w+)"),
            ("p99", r"99%\s+([\d.]+)(\w+)"),
        )
    }
    values = {name: match for name, match in found.items() if match}
    if len(values) < len(found) or not int(values["count"][1]):
        raise RuntimeError(f"wrk: no requests, or a report of another version\n{said}")
    p50, p99 = (float(values[name][1]) * _SECONDS[values[name][2]] * 1e3 for name in ("p50", "p99"))
    return Requests(
        float(values["rate"][1]), p50, p99, None if cpu is None else cpu / int(values["count"][1]) * 1e6
    )


def connect(route: Route, *, count: int, seconds: int, concurrency: int = 16) -> Requests:
    """Run ab without keep-alive: a new connection for each request, until `count` requests or `seconds`."""
    with tempfile.NamedTemporaryFile("r", suffix=".csv") as percentiles:
        arguments = [
            "ab",
            "-q",
            "-t",
            str(seconds),
            "-n",
            str(count),
            "-c",
            str(concurrency),
            "-e",
            percentiles.name,
        ]
        before = _cpu(route)
        said = _run([*arguments, f"http://127.0.0.1:{route.ports.http}/"], seconds)
        used = None if route.pid is None else _cpu(route) - before
        return read_ab(said, percentiles.read(), used)


def read_ab(said: str, percentiles: str, cpu: float | None) -> Requests:
    """Parse ab's report, and its CSV of percentiles in ms. Raises RuntimeError if a request failed."""
    counts = {
        name: int(value)
        for name, value in re.findall(r"(Complete requests|Failed requests|Non-2xx responses):\s+(\d+)", said)
    }
    rate = re.search(r"Requests per second:\s+([\d.]+)", said)
    complete = counts.pop("Complete requests", 0)
    if not complete or rate is None or any(counts.values()):
        raise RuntimeError(f"ab: requests failed, or a report of another version\n{said}")
    times = {row[0]: float(row[1]) for row in list(csv.reader(percentiles.splitlines()))[1:]}
    return Requests(float(rate[1]), times["50"], times["99"], None if cpu is None else cpu / complete * 1e6)


def through_proxy(proxy: str, pid: int, server: str, *, count: int, concurrency: int = 16) -> Opened:
    """Run curl to `server` (HOST:PORT) through the `proxy` of process `pid`: a new connection a request."""
    arguments = ["curl", "--silent", "--show-error", "--proxy", proxy, "--noproxy", "", "--proxytunnel"]
    arguments += ["--parallel", "--parallel-immediate", "--parallel-max", str(concurrency)]
    arguments += ["--header", "Connection: close", "--output", "/dev/null"]
    arguments += ["--write-out", "%{http_code} %{num_connects}\n", f"http://{server}/[1-{count}]"]
    before, began = cpu_seconds(pid), time.monotonic()
    said = _run(arguments, 0)
    took, used = time.monotonic() - began, cpu_seconds(pid) - before
    check_curl(said, count)
    return Opened(count / took, used / count * 1e6)


def check_curl(said: str, count: int) -> None:
    """Check curl's line for each request. Raises RuntimeError if one failed, or reused a connection."""
    lines = said.split("\n")[:-1]
    if len(lines) != count or set(lines) != {"200 1"}:
        raise RuntimeError(f"curl: {len(lines)} of {count} answers; status and new connections: {set(lines)}")
