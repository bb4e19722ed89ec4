"""The line for `systemctl status` costs little, however much changes."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.daemon.status_line import SHARE, StatusLine


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The service manager's end of NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.bind(name := str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield sock


class Counter:
    """A line that has how often it was made, and how many changes there were."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.asked = self.changes = 0
        self._seconds = seconds

    def __call__(self) -> str:
        self.asked += 1
        until = time.perf_counter() + self._seconds
        while time.perf_counter() < until:
            pass
        return f"{self.changes} changes"

    async def change(self, line: StatusLine, count: int) -> None:
        """Change that often, each time in another turn of the loop."""
        for _ in range(count):
            self.changes += 1
            line.changed()
            await asyncio.sleep(0)


async def received(manager: socket.socket) -> str:
    async with asyncio.timeout(30):
        return (await asyncio.get_running_loop().sock_recv(manager, 1024)).decode()


async def test_the_first_change_is_sent_at_once_and_later_ones_together(
    manager: socket.socket,
) -> None:
    counter = Counter()
    line = StatusLine(counter, pause=0.2)
    await counter.change(line, 1)
    assert await received(manager) == "STATUS=1 changes"
    told, lines = "", 0
    # The kernel keeps few unread messages, and drops the last one if the changes take long.
    changing = asyncio.get_running_loop().create_task(counter.change(line, 999))
    while told != "STATUS=1000 changes":
        told, lines = await received(manager), lines + 1
    await changing
    assert lines < 100
    line.close()


async def test_a_line_that_takes_long_to_make_is_made_seldom(manager: socket.socket) -> None:
    counter = Counter(seconds=30 * SHARE)
    line = StatusLine(counter, pause=0.0)
    await counter.change(line, 1)
    assert await received(manager) == "STATUS=1 changes"
    await counter.change(line, 1000)
    assert counter.asked == 1
    line.close()


async def test_nothing_is_sent_after_the_end(manager: socket.socket) -> None:
    counter = Counter()
    line = StatusLine(counter)
    line.changed()
    line.close()
    await counter.change(line, 100)
    assert counter.asked == 0
