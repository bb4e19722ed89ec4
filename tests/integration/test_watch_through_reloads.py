"""A `kubectl get --watch` and a slow download survive reloads that change everything else: twelve reloads, or
as many as fit into WATCH_MINUTES.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Self, cast

import pytest

from proxy.runtime.endpoint import Endpoint
from tests.integration.conftest import cluster, gateway, mapped
from tests.integration.running import connections, running, told, wait_up
from tests.integration.test_life import kubemux
from tests.integration.test_make_before_break import until
from tests.support.apiserver import ApiServer, asset
from tests.support.asking import Asker
from tests.support.daemon import Daemon, Sections
from tests.support.echo import Echo, Source, pattern
from tests.support.patient import HALF_CLOSES
from tests.support.ports import free_port
from tests.support.serving import closed
from tests.support.sshd import SshdFactory

pytestmark = [pytest.mark.apiserver, pytest.mark.sshd]

MINUTES: Final = float(os.environ.get("WATCH_MINUTES", "0"))
TURN_S: Final = 5.0 if MINUTES else 0.0
"""The shortest time of a turn, in seconds, so that a long run does not reload all the time."""
TURNS: Final = max(12, round(MINUTES * 12))
"""There are three ways to reload and four changes, so twelve turns are all combinations."""
PIECES: Final = 20
PIECE: Final = 48 << 10
SIZE: Final = TURNS * PIECES * PIECE + (24 << 20)
"""More bytes than all turns read and all buffers hold, so that the download still runs in the last turn."""
LIMITS: Final = {"limits": {"drain_timeout": "100ms", "hold_timeout": "1m"}}
"""Clients come before the link of a new gateway is up."""


class Download:
    """A client that reads its download in small pieces."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._digest = hashlib.sha256()

    async def go_on(self) -> None:
        """Read a turn's share, spread over the turn."""
        for _ in range(PIECES):
            self._digest.update(await self._reader.readexactly(PIECE))
            await asyncio.sleep(TURN_S / PIECES)

    async def finish(self) -> None:
        """Read the rest, and compare all of it with what was sent."""
        async with asyncio.timeout(60):
            while data := await self._reader.read(1 << 20):
                self._digest.update(data)
        assert self._digest.digest() == hashlib.sha256(pattern(SIZE)).digest()


class Watch:
    """A `kubectl get configmaps --watch` of `namespace`; changes go to the API server directly, past the
    daemon.
    """

    def __init__(self, process: Process, apiserver: ApiServer, direct: Path, namespace: str) -> None:
        self.process = process
        self._apiserver, self._direct, self._namespace = apiserver, direct, namespace
        self.seen = 0

    async def event(self) -> None:
        """Make, change or delete an object, in turn. The next line of kubectl must show exactly
        that event.
        """
        name, step = f"item-{self.seen // 3}", self.seen % 3
        order: tuple[str, ...] = (
            ("create", "configmap", name, "--from-literal=n=1"),
            ("patch", "configmap", name, "--patch", json.dumps({"data": {"n": "2"}})),
            ("delete", "configmap", name),
        )[step]
        await asyncio.to_thread(
            self._apiserver.kubectl, "--namespace", self._namespace, *order, kubeconfig=self._direct
        )
        assert self.process.stdout
        async with asyncio.timeout(60):
            line = await self.process.stdout.readline()
        assert line.decode() == f"{('ADDED', 'MODIFIED', 'DELETED')[step]} {name} {(1, 2, 2)[step]}\n"
        self.seen += 1


@asynccontextmanager
async def watching(apiserver: ApiServer, port: int, folder: Path) -> AsyncIterator[Watch]:
    """Run the watch. When the block ends, it must still run, without errors, and without further output."""
    namespace = f"watched-{port}"
    direct = apiserver.kubeconfig(folder / "direct")
    await asyncio.to_thread(apiserver.kubectl, "create", "namespace", namespace, kubeconfig=direct)
    shown = r'jsonpath={.type} {.object.metadata.name} {.object.data.n}{"\n"}'
    process = await asyncio.create_subprocess_exec(
        *(asset("kubectl"), "--kubeconfig", mapped(apiserver, folder, port), "--namespace", namespace),
        *("get", "configmaps", "--watch", "--output-watch-events", "-o", shown),
        stdout=PIPE,
        stderr=PIPE,
        env=os.environ | {"HOME": str(folder), "KUBECACHEDIR": str(folder / "cache")},
    )
    watch = Watch(process, apiserver, direct, namespace)
    try:
        yield watch
        assert process.returncode is None
    finally:
        if process.returncode is None:
            process.kill()
        rest = await process.communicate()
    assert rest == (b"", b"")


async def tick(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send a byte to an echo server, and wait for it."""
    writer.write(b"tick")
    assert await reader.readexactly(4) == b"tick"


class Reloads:
    """Reloads, in three ways, files that have nothing in common but gateway `edge` and the clusters `kept`.

    Each of the other clusters has a client, which the reload must drain.
    """

    def __init__(
        self, daemon: Daemon, edge: Sections, others: Sequence[Sections], kept: Sections, echo: Endpoint
    ) -> None:
        self._daemon, self._edge, self._others, self._kept, self._echo = daemon, edge, others, kept, echo
        self._near = free_port()
        self._visitors: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.taken = self.refused = self.reconnects = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._leave()

    async def _leave(self) -> None:
        while self._visitors:
            await closed(self._visitors.pop()[1])

    async def reload(self, turn: int) -> None:
        """Reload a file with none, one or two other gateways, each with a cluster on a new port; or a bad
        file, which is rejected.
        """
        count, is_bad = turn % 4, turn % 4 == 3
        ports = [free_port() for _ in range(count)]
        other = self._others[turn % 2]
        gateways = {
            "edge": self._edge,
            **{f"g{n}": {**other, "connections": 1 + turn % 2} for n in range(count)},
        }
        clusters = {
            **self._kept,
            **{f"c{n}": cluster(port, self._echo, via=f"g{n}") for n, port in enumerate(ports)},
            "near": cluster(self._near, Endpoint("127.0.0.1", 1 + turn), via="nowhere" if is_bad else "edge"),
        }
        self._daemon.configure(gateways=gateways, clusters=clusters, sections=LIMITS)
        self.taken, self.refused = self.taken + (not is_bad), self.refused + is_bad
        await self._order(turn, is_bad=is_bad)
        async with asyncio.timeout(90):
            if is_bad:
                for reader, writer in self._visitors:
                    await tick(reader, writer)
                return
            for reader, _ in self._visitors:
                assert await reader.read() == b"", (
                    "the client was drained: its cluster has another address now, or is gone"
                )
            await self._leave()
            for n, port in enumerate(ports):
                self._visitors.append(await asyncio.open_connection("127.0.0.1", port))
                await tick(*self._visitors[-1])
                answer = await Asker(self._daemon.socket).post(f"/-/reconnect?gateway=g{n}")
                assert answer.status == 200, answer.text
                self.reconnects += 1

    async def _order(self, turn: int, *, is_bad: bool) -> None:
        if turn % 3 == 0:
            await asyncio.to_thread(
                kubemux, "reload", "--config", self._daemon.config, code=78 if is_bad else 0
            )
        elif turn % 3 == 1:
            self._daemon.signal(signal.SIGHUP)
        else:
            answer = await Asker(self._daemon.socket).post("/-/reload")
            assert answer.status == (422 if is_bad else 200), answer.text
        await until(self._daemon, "taken or refused", lambda: self._counted() == (self.taken, self.refused))

    def _counted(self) -> tuple[float, float]:
        ok, rejected = (
            self._daemon.metric("kubemux_config_reloads_total", result=result)
            for result in ("ok", "rejected")
        )
        return ok, rejected


def carried(daemon: Daemon, name: str) -> dict[str, object]:
    """A cluster in `/status`."""
    clusters = cast("list[dict[str, object]]", json.loads(daemon.get("/status")[1])["clusters"])
    return next(entry for entry in clusters if entry["name"] == name)


def is_theirs(daemon: Daemon, name: str) -> bool:
    """Whether the cluster has had exactly one connection, which is still open."""
    now = carried(daemon, name)
    return (now["connections"], now["connections_total"]) == (1, 1)


def ends(daemon: Daemon, clusters: Sections) -> list[dict[str, object]]:
    """The log entries of ended connections to these clusters."""
    return [entry for entry in daemon.events("connection closed") if entry["cluster"] in clusters]


@pytest.mark.timeout(MINUTES * 60 * 1.5 + 120)
async def test_a_watch_and_a_download_live_through_reloads(
    sshd_factory: SshdFactory, apiserver: ApiServer, tmp_path: Path
) -> None:
    edge, *others = (gateway(sshd_factory()) for _ in range(3))
    prod, bulk = free_port(), free_port()
    async with Source() as source, Echo() as echo:
        kept = {
            "prod": cluster(prod, apiserver.endpoint, ca=apiserver.ca_file),
            "bulk": cluster(bulk, source.endpoint, probe={"interval": "1h", "timeout": "100ms"}),
        }
        async with running(
            tmp_path / "daemon",
            gateways={"edge": edge},
            clusters=kept,
            limits=LIMITS["limits"],
            wrapper=HALF_CLOSES,
            expected_errors={"reload rejected"},
        ) as daemon:
            await wait_up(daemon, "prod")
            await until(daemon, "both links", lambda: told(daemon)["edge"]["state"] == "up")
            reader, writer = await asyncio.open_connection("127.0.0.1", bulk)
            try:
                writer.write(b"%d\n" % SIZE)
                download = Download(reader)
                async with watching(apiserver, prod, tmp_path) as watch:
                    await watch.event()
                    began = time.monotonic()
                    (at,) = connections(watch.process.pid)
                    async with Reloads(daemon, edge, others, kept, echo.endpoint) as reloads:
                        for turn in range(TURNS):
                            async with asyncio.TaskGroup() as group:
                                group.create_task(download.go_on(), name="download")
                                await reloads.reload(turn)
                                await watch.event()
                            assert is_theirs(daemon, "prod")
                            assert is_theirs(daemon, "bulk")
                    seconds = time.monotonic() - began
                    assert connections(watch.process.pid) == [at], "kubectl still has its first connection"
                    arrived = carried(daemon, "bulk")["bytes_from_cluster"]
                    assert isinstance(arrived, int)
                    assert arrived < SIZE, "the download was over before the reloads were"
                    assert not ends(daemon, kept)
                await download.finish()
            finally:
                await closed(writer)
            await until(daemon, "both ends in the log", lambda: len(ends(daemon, kept)) == 2)
            (watched,) = (entry for entry in ends(daemon, kept) if entry["cluster"] == "prod")
            assert watched["client"] == f"127.0.0.1:{at[0]}"
            assert cast("float", watched["seconds"]) >= seconds
            for verb in ("added", "changed", "removed"):
                done = {
                    name for entry in daemon.events("reloaded") for name in cast("list[str]", entry[verb])
                }
                assert done >= {"gateway g0", "cluster c0"}, verb
            assert not daemon.events("link lost")
            assert not [entry for entry in daemon.events("link closed") if entry["gateway"] == "edge"]
            assert daemon.metric("kubemux_gateway_reconnects_total", gateway="edge") == 0
    print(  # noqa: T201 - what a long run is judged by
        f"{seconds / 60:.2f} min, {reloads.taken} reloads taken, {reloads.refused} refused, "
        f"{reloads.reconnects} reconnects of others, {watch.seen} events, "
        f"{SIZE} bytes downloaded, {arrived} of them before the last reload's end"
    )
