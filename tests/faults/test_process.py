"""Faults of the daemon's process. They affect all clients; a service manager starts the daemon again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable

import pytest

from tests.faults.bed import Bed
from tests.faults.client import Saw
from tests.faults.row import Hits, Row, Step
from tests.support.ports import free_port

pytestmark = [pytest.mark.sshd, pytest.mark.gcc]

ENDED = frozenset({Saw.RESET, Saw.REFUSED, Saw.CUT})
BLOCK_S = 3.0
WATCHDOG_S = 1.0
TERMINATED = {0, -signal.SIGTERM}
"""Exit codes of a daemon that gets SIGTERM while it starts. -15: the signal came before Python
had a handler.
"""


async def stop(bed: Bed) -> None:
    await asyncio.to_thread(bed.daemon.stop)


async def start(bed: Bed) -> None:
    await asyncio.to_thread(bed.daemon.start)


async def stop_twice(bed: Bed) -> None:
    """Send SIGTERM twice. With the first alone, the daemon would wait for its clients for a day."""

    def twice() -> None:
        bed.daemon.signal(signal.SIGTERM)
        bed.daemon.wait_for("it stops", lambda: bool(bed.daemon.events("stopping")))
        bed.daemon.signal(signal.SIGTERM)
        assert bed.daemon.wait_ended() == 0
        bed.daemon.assert_log_clean()

    await asyncio.to_thread(twice)


async def stop_while_starting(bed: Bed) -> None:
    """Send SIGTERM at once, after steps of 100 ms, when the first port is bound, and at READY=1."""

    def is_bound() -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", bed.ports["prod"])) == 0

    def stop_when(condition: Callable[[], bool]) -> None:
        bed.daemon.spawn()
        while not condition():
            time.sleep(0.005)
        bed.daemon.signal(signal.SIGTERM)
        assert bed.daemon.wait_ended() in TERMINATED
        bed.daemon.assert_log_clean()

    def sweep() -> None:
        bed.daemon.stop()
        for delay in range(6):
            due = time.monotonic() + delay / 10
            stop_when(lambda due=due: time.monotonic() >= due)  # type: ignore[misc]
        stop_when(is_bound)
        stop_when(lambda: "READY=1" in bed.daemon.next_notified(seconds=0.2))

    await asyncio.to_thread(sweep)


async def stop_while_reloading(bed: Bed) -> None:
    """Start a reload that adds, changes and removes, and send SIGTERM right after it."""

    def both() -> None:
        content = json.loads(bed.daemon.config.read_text())
        clusters = content["clusters"]
        clusters["added"] = {**clusters["far"], "listen": f"127.0.0.1:{free_port()}"}
        clusters["stage"]["listen"] = f"127.0.0.1:{free_port()}"
        del clusters["far"]
        bed.daemon.config.write_text(json.dumps(content))
        bed.daemon.signal(signal.SIGHUP)
        bed.daemon.signal(signal.SIGTERM)
        assert bed.daemon.wait_ended() == 0
        bed.daemon.assert_log_clean()

    await asyncio.to_thread(both)


async def start_as_before(bed: Bed) -> None:
    bed.daemon.config.write_bytes(bed.good)
    await start(bed)


async def kill(bed: Bed) -> None:
    """Send SIGKILL, as the kernel does when there is no memory left."""
    await asyncio.to_thread(bed.daemon.kill)


async def block(bed: Bed) -> None:
    lag = "kubemux_event_loop_lag_seconds_sum"
    bed.shim.block(BLOCK_S)
    await bed.wait_for("the loop was late", lambda: bed.daemon.metric(lag) > BLOCK_S - 0.6)


async def hang(bed: Bed) -> None:
    """Do what systemd does with WatchdogSec=: send SIGABRT to a daemon that sends no WATCHDOG=1 in time."""

    def watch() -> None:
        bed.shim.block(60)
        due = time.monotonic() + WATCHDOG_S
        while (left := due - time.monotonic()) > 0:
            if "WATCHDOG=1" in bed.daemon.next_notified(seconds=left):
                due = time.monotonic() + WATCHDOG_S
        os.kill(bed.daemon.pid, signal.SIGABRT)
        assert bed.daemon.wait_ended() == -signal.SIGABRT
        bed.shim.block(0)  # the next daemon must not hang, even if this one was held up before it hung
        assert "Fatal Python error: Aborted" in bed.daemon.set_log_aside(), (
            "the log says where the daemon hung"
        )

    await asyncio.to_thread(watch)


def ended(name: str, breaks: Step, mends: Step = start, **more: object) -> Row:
    return Row(name=name, hits=Hits.ALL, breaks=breaks, mends=mends, clients=ENDED, restarts=True, **more)  # type: ignore[arg-type]


ROWS = (
    ended("SIGTERM, and started again", stop),
    ended("SIGTERM twice", stop_twice, limits={"drain_timeout": "1h"}),
    ended("SIGTERM during start", stop_while_starting),
    ended("SIGTERM during a reload", stop_while_reloading, start_as_before),
    ended("SIGKILL, and started again", kill),
    Row(name="event loop blocked for 3 s", hits=Hits.ALL, breaks=block, has_shim=True),
    ended(
        "event loop hangs, WatchdogSec=1s",
        hang,
        has_shim=True,
        environment={"WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6)), "PYTHONFAULTHANDLER": "1"},
    ),
)


async def test_row(proven: Callable[[], Awaitable[None]]) -> None:
    await proven()
