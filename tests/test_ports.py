"""A port that `free_port` returns belongs to one test, on the whole machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.ports import free_port

ROOT = Path(__file__).parents[1]
DRAWN = 300
DRAW = f"from tests.support.ports import free_port\nprint(*(free_port() for _ in range({DRAWN})))\ninput()"


def other_suite() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", DRAW],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_no_two_processes_are_given_the_same_port() -> None:
    with other_suite() as one, other_suite() as two:
        given = []
        for process in (one, two):
            assert process.stdout, "the other process was started with a pipe"
            given.append({int(port) for port in process.stdout.readline().split()})
        ours = {free_port() for _ in range(DRAWN)}
        for process in (one, two):
            process.communicate("\n", timeout=60)
    assert not given[0] & given[1] | given[0] & ours | given[1] & ours
    assert min(map(len, [*given, ours])) > 200


def test_many_ports_in_a_row_are_all_different() -> None:
    drawn = [free_port() for _ in range(200)]
    assert len(set(drawn)) == len(drawn)


def test_no_port_is_used_by_an_outgoing_connection() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(free_port() < lowest for _ in range(DRAWN))
