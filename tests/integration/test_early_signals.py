"""Signals that arrive while the configuration is read for the first time."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.integration.conftest import cluster
from tests.support.daemon import Daemon
from tests.support.ports import free_port


@pytest.fixture
def reading(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon that is reading its configuration; on a slow machine it may be a little further."""
    clusters = {f"c{n}": cluster(free_port(), via="direct", api_servers=["127.0.0.1:1"]) for n in range(10)}
    daemon = Daemon(tmp_path, gateways={}, clusters=clusters, executes=True)
    daemon.spawn()
    deadline = time.monotonic() + 60
    while not is_reading(daemon):
        assert time.monotonic() < deadline, daemon.log()
        time.sleep(0.001)
    try:
        yield daemon
    finally:
        daemon.kill()


def is_reading(daemon: Daemon) -> bool:
    """Whether the daemon has started the child process that reads the file, or already has its handler for
    SIGHUP, which it installs after that.
    """
    process = Path(f"/proc/{daemon.pid}")
    caught = re.search(r"^SigCgt:\s*(\w+)$", (process / "status").read_text(), re.MULTILINE)
    assert caught
    if int(caught[1], 16) >> (signal.SIGHUP - 1) & 1:
        return True
    for child in (process / "task" / str(daemon.pid) / "children").read_text().split():
        with suppress(OSError):  # the process has ended
            if b"proxy.config.apart" in Path(f"/proc/{child}/cmdline").read_bytes():
                return True
    return False


def test_a_reload_that_comes_too_early_waits(reading: Daemon) -> None:
    reading.signal(signal.SIGHUP)
    reading.wait_notified("READY=1", seconds=60)
    reading.wait_for("a reload", lambda: bool(reading.events("reloaded")))
    reading.stop()


def test_a_stop_that_comes_too_early_ends_the_daemon_silently(reading: Daemon) -> None:
    reading.signal(signal.SIGTERM)
    assert reading.wait_ended() in (-signal.SIGTERM, 0)
    reading.assert_log_clean()
