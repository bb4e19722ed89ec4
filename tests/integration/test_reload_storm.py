"""Many reloads a second between different files, while clients of clusters that are in all of
them transfer.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
from pathlib import Path
from typing import Final

import pytest

from proxy.runtime.endpoint import Endpoint
from tests.integration.conftest import cluster, gateway
from tests.integration.running import running, told
from tests.integration.test_make_before_break import until
from tests.support.asking import Asker
from tests.support.daemon import Daemon
from tests.support.echo import Echo, Source, pattern
from tests.support.ports import free_port
from tests.support.serving import closed
from tests.support.sshd import SshdFactory

pytestmark = pytest.mark.sshd

SIZE: Final = 4 << 20
RARELY: Final = {"interval": "1h", "timeout": "1s"}
LIMITS: Final = {"limits": {"drain_timeout": "200ms"}}
ROUNDS: Final = 12
"""How many files are written in all, each followed by a SIGHUP or an order to reload."""


async def download(address: Endpoint, storm: asyncio.Task[None]) -> int:
    """Download again and again until the storm is over; no byte may be missing."""
    wanted, count = hashlib.sha256(pattern(SIZE)).digest(), 0
    while not storm.done():
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"%d\n" % SIZE)
        assert hashlib.sha256(await reader.read()).digest() == wanted
        await closed(writer)
        count += 1
    return count


async def talk(address: Endpoint, storm: asyncio.Task[None]) -> None:
    """Send and receive on one connection, which must last until the storm is over."""
    reader, writer = await asyncio.open_connection(*address)
    while not storm.done():
        writer.write(b"tick")
        assert await reader.readexactly(4) == b"tick"
        await asyncio.wait([storm], timeout=0.05)
    await closed(writer)


def held(daemon: Daemon) -> tuple[int, float]:
    """The number of the daemon's descriptors and tasks."""
    return len(list(Path(f"/proc/{daemon.pid}/fd").iterdir())), daemon.metric("kubemux_tasks")


async def test_a_storm_of_reloads_cuts_nothing_that_stays(sshd_factory: SshdFactory, tmp_path: Path) -> None:
    edge, other = gateway(sshd_factory()), gateway(sshd_factory())
    kept, talked, moving = (free_port() for _ in range(3))
    async with Source() as source, Echo() as echo:
        stay = {
            "kept": cluster(kept, source.endpoint, probe=RARELY),
            "talked": cluster(talked, echo.endpoint, probe=RARELY),
        }
        first = {"gateways": {"edge": edge, "other": other}, "clusters": stay}
        files = [
            {"gateways": {"edge": edge}, "clusters": stay},
            {**first, "clusters": {**stay, "moving": cluster(moving, echo.endpoint, via="other")}},
            {
                "gateways": {"edge": edge, "other": {**other, "connections": 1}},
                "clusters": {**stay, "moving": cluster(moving, source.endpoint, via="edge", probe=RARELY)},
            },
            {"gateways": {"edge": edge}, "clusters": {**stay, "broken": {"gateway": "nowhere"}}},
            {**first, "clusters": {**stay, "moving": cluster(moving, echo.endpoint, via="direct")}},
        ]
        async with running(
            tmp_path / "daemon", **first, limits=LIMITS["limits"], expected_errors={"reload rejected"}
        ) as daemon:

            def is_up() -> bool:
                return all(len(told(daemon)[name]["links"]) == 2 for name in ("edge", "other"))

            async def storm(group: asyncio.TaskGroup) -> None:
                orders = []
                for turn in range(ROUNDS * len(files)):
                    fresh = daemon.config.with_suffix(".new")  # so that no reload reads half a file
                    content = {**json.loads(daemon.config.read_text()), **LIMITS, **files[turn % len(files)]}
                    fresh.write_text(json.dumps(content))
                    fresh.rename(daemon.config)
                    if turn % 3:
                        daemon.signal(signal.SIGHUP)
                    else:
                        orders.append(group.create_task(Asker(daemon.socket).post("/-/reload")))
                    await asyncio.sleep(0.02)  # 50 a second
                assert {answer.status for answer in await asyncio.gather(*orders)} <= {200, 422}

            await until(daemon, "all links", is_up)
            before = held(daemon)
            async with asyncio.timeout(120), asyncio.TaskGroup() as group:
                storming = group.create_task(storm(group))
                bulk = [group.create_task(download(Endpoint("127.0.0.1", kept), storming)) for _ in range(2)]
                for _ in range(20):
                    group.create_task(talk(Endpoint("127.0.0.1", talked), storming))
            assert all(task.result() for task in bulk)

            daemon.configure(**first, sections=LIMITS)
            answer = await Asker(daemon.socket).post("/-/reload")
            assert answer.status == 200, answer.text
            await until(daemon, "all links again", is_up)
            await until(
                daemon,
                "no more than it held before",
                lambda: all(now <= then for now, then in zip(held(daemon), before, strict=True)),
            )
            assert not daemon.events("link lost")
            assert not [one for one in daemon.events("link closed") if one["gateway"] == "edge"]
            ends = {one["cluster"]: one["reason"] for one in daemon.events("connection closed")}
            assert ends == {"kept": "cluster_closed", "talked": "client_closed"}
