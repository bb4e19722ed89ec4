"""A download and a watch through the daemon while links are replaced and files are reloaded: no byte and no
event is lost.
"""

from __future__ import annotations

import asyncio
import hashlib
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxy.runtime.endpoint import Endpoint
from tests.integration.conftest import cluster, gateway
from tests.integration.running import peers, running, told, wait_for_log
from tests.integration.test_life import kubemux
from tests.support import ssh_keys
from tests.support.daemon import Daemon, Sections
from tests.support.echo import Echo, Source, pattern
from tests.support.ports import free_port
from tests.support.serving import closed
from tests.support.sshd import Sshd, SshdFactory

pytestmark = pytest.mark.sshd

SIZE = 24 << 20


@dataclass
class Clients:
    """A download of which only the first byte has been read, and a connection that is used from
    time to time.
    """

    download: asyncio.StreamReader
    watch: tuple[asyncio.StreamReader, asyncio.StreamWriter]
    first: bytes
    ticks: int = 0

    async def tick(self) -> None:
        """One event of the watch."""
        reader, writer = self.watch
        self.ticks += 1
        writer.write(b"%8d" % self.ticks)
        async with asyncio.timeout(30):
            assert await reader.readexactly(8) == b"%8d" % self.ticks

    async def finish(self) -> None:
        """Read the rest of the download, and compare all of it with what was sent."""
        async with asyncio.timeout(60):
            got = self.first + await self.download.read()
        assert hashlib.sha256(got).digest() == hashlib.sha256(pattern(SIZE)).digest()


@asynccontextmanager
async def connected(source: int, echo: int) -> AsyncIterator[Clients]:
    reader, writer = await asyncio.open_connection("127.0.0.1", source)
    watch = await asyncio.open_connection("127.0.0.1", echo)
    try:
        writer.write(b"%d\n" % SIZE)
        async with asyncio.timeout(60):
            clients = Clients(reader, watch, await reader.readexactly(1))
        await clients.tick()
        yield clients
    finally:
        await closed(writer)
        await closed(watch[1])


class Site:
    """A download server and an echo server behind gateway `edge`, each with its own mapped port."""

    def __init__(self, sshd: Sshd, source: Source, echo: Echo, **more: object) -> None:
        self.gateways: Sections = {"edge": gateway(sshd, connect_timeout="60s", **more)}
        self.source, self.echo = free_port(), free_port()
        never = {"interval": "1h", "timeout": "100ms"}
        self.clusters: Sections = {
            "source": cluster(self.source, source.endpoint, probe=never),
            "echo": cluster(self.echo, echo.endpoint, probe=never),
        }


async def until(daemon: Daemon, what: str, condition: object) -> None:
    assert callable(condition)
    await asyncio.to_thread(daemon.wait_for, what, condition)


def is_replaced(daemon: Daemon, count: int) -> bool:
    edge = told(daemon)["edge"]
    return (
        edge["state"] == "up"
        and daemon.metric("kubemux_gateway_reconnects_total", reason="replaced") == count
    )


async def test_clients_do_not_notice_a_reconnect(sshd: Sshd, tmp_path: Path) -> None:
    async with Source() as source, Echo() as echo:
        site = Site(sshd, source, echo)
        async with running(tmp_path / "daemon", gateways=site.gateways, clusters=site.clusters) as daemon:
            await until(daemon, "both links", lambda: told(daemon)["edge"]["state"] == "up")
            async with connected(site.source, site.echo) as clients:
                for turn in range(1, 4):
                    await asyncio.to_thread(kubemux, "reconnect", "edge", "--config", daemon.config)
                    await until(daemon, "both replaced", lambda turn=turn: is_replaced(daemon, 2 * turn))
                    await clients.tick()
                    await until(daemon, "twice the links", lambda: peers(daemon.pid).count(sshd.port) <= 4)
                assert daemon.metric("kubemux_gateway_links_retiring") >= 1
                await until(
                    daemon,
                    "no client on the new links, and no probe any more",
                    lambda: {link["channels"] for link in told(daemon)["edge"]["links"]} == {0},
                )
                await clients.finish()
            await until(
                daemon, "the old links are gone", lambda: daemon.metric("kubemux_gateway_links_retiring") == 0
            )
            assert not daemon.events("link lost")
            reasons = [event["reason"] for event in daemon.events("connection closed")]
            assert set(reasons) <= {"client_closed", "client_reset", "cluster_closed", "closed"}, reasons


async def test_clients_do_not_notice_reloads_of_other_clusters_and_gateways(
    sshd_factory: SshdFactory, tmp_path: Path
) -> None:
    """Twelve reloads that add, change and remove clusters and gateways, by command and by signal."""
    sshd, other = sshd_factory(), sshd_factory()
    async with Source() as source, Echo() as echo:
        site = Site(sshd, source, echo)
        async with running(tmp_path / "daemon", gateways=site.gateways, clusters=site.clusters) as daemon:
            await until(daemon, "both links", lambda: told(daemon)["edge"]["state"] == "up")
            async with connected(site.source, site.echo) as clients:
                near = free_port()
                for turn in range(12):
                    gateways = {
                        **site.gateways,
                        **{f"g{n}": gateway(other, connections=1 + turn % 2) for n in range(turn % 3)},
                    }
                    clusters = {
                        **site.clusters,
                        **{
                            f"c{n}": cluster(free_port(), echo.endpoint, via=f"g{n}") for n in range(turn % 3)
                        },
                        "near": cluster(near, Endpoint("127.0.0.1", 1 + turn)),
                    }
                    daemon.configure(
                        gateways=gateways, clusters=clusters, sections={"limits": {"drain_timeout": "100ms"}}
                    )
                    if turn % 2:
                        daemon.signal(signal.SIGHUP)
                        await until(
                            daemon, "taken", lambda turn=turn: len(daemon.events("reloaded")) == turn + 1
                        )
                    else:
                        await asyncio.to_thread(kubemux, "reload", "--config", daemon.config)
                    await clients.tick()
                await clients.finish()
                assert any(link["channels"] for link in told(daemon)["edge"]["links"]), (
                    "the watch is still on its first link"
                )
            assert daemon.metric("kubemux_gateway_reconnects_total", gateway="edge") == 0


async def test_clients_do_not_notice_a_rotated_key(sshd: Sshd, tmp_path: Path) -> None:
    """The old key is removed from authorized_keys first, as a careful operator does. Links that logged in
    with it stay.
    """
    key = tmp_path / "key"
    key.write_bytes(sshd.identity.read_bytes())
    key.chmod(0o600)
    async with Source() as source, Echo() as echo:
        site = Site(sshd, source, echo, identity_files=[str(key)])
        async with running(tmp_path / "daemon", gateways=site.gateways, clusters=site.clusters) as daemon:
            await until(daemon, "both links", lambda: told(daemon)["edge"]["state"] == "up")
            async with connected(site.source, site.echo) as clients:
                (sshd.folder / "authorized_keys").write_text("")
                key.write_bytes(sshd.new_identity("rotated").read_bytes())
                said = await asyncio.to_thread(kubemux, "reload", "--config", daemon.config)
                # The daemon itself looks at its files every few seconds.
                assert said == "changed gateway edge\n" or daemon.events("files changed")
                await until(daemon, "both replaced", lambda: is_replaced(daemon, 2))
                await clients.tick()
                await clients.finish()
            assert not daemon.events("gateway dial failed")


async def test_a_host_key_that_is_no_longer_trusted_is_reported(sshd: Sshd, tmp_path: Path) -> None:
    """The link that is up stays, and serves new clients: a mistake in known_hosts must not disconnect
    anybody.
    """
    known_hosts = sshd.known_hosts()
    right, wrong = (
        known_hosts.read_text(),
        f"[{sshd.host}]:{sshd.port} {ssh_keys.public(ssh_keys.new_key(tmp_path / 'other'))}\n",
    )
    async with Source() as source, Echo() as echo:
        site = Site(sshd, source, echo, known_hosts=[str(known_hosts)])
        async with running(tmp_path / "daemon", gateways=site.gateways, clusters=site.clusters) as daemon:
            await until(daemon, "both links", lambda: told(daemon)["edge"]["state"] == "up")
            async with connected(site.source, site.echo) as clients:
                known_hosts.write_text(wrong)
                await asyncio.to_thread(kubemux, "reload", "--config", daemon.config)
                failed = await wait_for_log(daemon, "gateway dial failed", reason="host_key_changed")
                assert failed["links_kept"] == 2
                edge = told(daemon)["edge"]
                assert (edge["state"], edge["reason"], len(edge["links"])) == (
                    "degraded",
                    "host_key_changed",
                    2,
                )
                shown = await asyncio.to_thread(kubemux, "status", "--config", daemon.config)
                assert "gateway edge: host_key_changed" in shown
                await clients.tick()
                async with connected(site.source, site.echo) as late:
                    await late.finish()
                known_hosts.write_text(right)
                await asyncio.to_thread(kubemux, "reload", "--config", daemon.config)
                await until(daemon, "both replaced", lambda: is_replaced(daemon, 2))
                await clients.tick()
                await clients.finish()
