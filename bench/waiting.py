"""Waits until processes of the bench listen, without connecting to them, and ends processes."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

READY_SECONDS = 60.0
POLL_SECONDS = 0.02
_LISTEN = "0A"


def listening() -> set[int]:
    """The IPv4 TCP ports with a listener (proc_net_tcp(5))."""
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return {int(row[1].partition(":")[2], 16) for row in rows if row[3] == _LISTEN}


def wait_listening(ports: Collection[int], processes: Collection[subprocess.Popen[bytes]]) -> None:
    """Wait until all ports are bound. It does not connect, because iperf3 would take that for its test.

    Raises RuntimeError if one of `processes` ends, or after READY_SECONDS.
    """
    deadline = time.monotonic() + READY_SECONDS
    while not listening().issuperset(ports):
        for process in processes:
            if process.poll() is not None:
                raise RuntimeError(
                    f"{process.args!r} ended with exit code {process.returncode} before it listened"
                )
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"nobody listens on {sorted(set(ports) - listening())} after {READY_SECONDS:g} s"
            )
        time.sleep(POLL_SECONDS)


@contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Terminate the process at the end of the block, and kill it if it does not end."""
    try:
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads of a process so far, in steps of 10 ms (proc_pid_stat(5))."""
    # The command in parentheses may contain any character. utime and stime are fields 14 and 15.
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
