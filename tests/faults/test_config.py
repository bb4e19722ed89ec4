"""Faults of the configuration file. A reload applies the whole file or nothing of it."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable

import pytest

from tests.faults.bed import Bed
from tests.faults.row import Row, Step

pytestmark = pytest.mark.sshd

REJECTED = frozenset({"reload rejected"})


async def reload(bed: Bed, result: str) -> None:
    """Send SIGHUP, and wait until the reload has ended with `result`."""
    metric = bed.daemon.metric
    before = await asyncio.to_thread(metric, "kubemux_config_reloads_total", result=result)
    bed.daemon.signal(signal.SIGHUP)
    await bed.wait_for(
        f"a reload that is {result}", lambda: metric("kubemux_config_reloads_total", result=result) > before
    )


def replace_by(content: bytes) -> Step:
    async def step(bed: Bed) -> None:
        bed.daemon.config.write_bytes(content)
        await reload(bed, "rejected")

    return step


async def replace_by_directory(bed: Bed) -> None:
    bed.daemon.config.unlink()
    bed.daemon.config.mkdir()
    await reload(bed, "rejected")


async def remove(bed: Bed) -> None:
    bed.daemon.config.unlink()
    await reload(bed, "rejected")


async def put_back(bed: Bed) -> None:
    if bed.daemon.config.is_dir():
        bed.daemon.config.rmdir()
    bed.daemon.config.write_bytes(bed.good)
    await bed.reload()


async def replace_during_reload(bed: Bed) -> None:
    """While reloads read the file, replace it in turn: the good file, one more cluster, half a file, an empty
    one.
    """
    content = json.loads(bed.good)
    content["clusters"]["more"] = {**content["clusters"]["far"], "listen": f"127.0.0.1:{bed.ports['plain']}"}
    more = json.dumps(content).encode()
    for text in (more, bed.good[: len(bed.good) // 2], bed.good, b""):
        bed.daemon.config.write_bytes(text)
        bed.daemon.signal(signal.SIGHUP)
        await asyncio.sleep(0)


ROWS = (
    Row(
        name="config replaced by garbage",
        breaks=replace_by(b"\x00\xff: [}{"),
        mends=put_back,
        errors=REJECTED,
    ),
    Row(name="config replaced by an empty file", breaks=replace_by(b""), mends=put_back, errors=REJECTED),
    Row(name="config replaced by a directory", breaks=replace_by_directory, mends=put_back, errors=REJECTED),
    Row(name="config removed", breaks=remove, mends=put_back, errors=REJECTED),
    Row(
        name="config replaced during a reload", breaks=replace_during_reload, mends=put_back, errors=REJECTED
    ),
)


async def test_row(proven: Callable[[], Awaitable[None]]) -> None:
    await proven()
