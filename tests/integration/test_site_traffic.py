"""Traffic through a site: large transfers, many connections, key exchanges, dropbear and PuTTY."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from proxy.runtime.endpoint import Endpoint
from tests.integration.conftest import cluster
from tests.integration.running import running
from tests.support.echo import Sink, Source, exchange, pattern
from tests.support.ports import free_port
from tests.support.serving import Server
from tests.support.site import RemoteSite, SshServerFiles

pytestmark = pytest.mark.sshd

NAME: Final = "factory-7"
SIZE: Final = 200_000_000
MANY: Final = 500


@asynccontextmanager
async def served(files: SshServerFiles, folder: Path, *servers: Server) -> AsyncIterator[list[Endpoint]]:
    """A daemon with a site, and a port for each server behind it. Yields the ports."""
    ports = [free_port() for _ in servers]
    clusters: dict[str, object] = {
        f"c{n}": cluster(port, server.endpoint, via=NAME, probe={"interval": "10m"})
        for n, (port, server) in enumerate(zip(ports, servers, strict=True))
    }
    async with running(
        folder,
        gateways={},
        clusters=clusters,
        limits={"hold_timeout": "1m"},  # clients come before the site has logged in
        ssh_server=files.sections(),
        sites={NAME: {**files.authorized(NAME), "permit": ["127.0.0.1:*"]}},
    ) as daemon:
        yield [Endpoint("127.0.0.1", port) for port in ports]
        assert daemon.metric("kubemux_gateway_reconnects_total", gateway=NAME) == 0


async def test_200_megabytes_arrive_each_way_while_the_client_changes_keys(tmp_path: Path) -> None:
    files, log = SshServerFiles(tmp_path / "ssh"), tmp_path / "ssh.log"
    options = ("-v", "-E", str(log), "-o", "RekeyLimit=32M", "-R", f"{NAME}:1080")
    async with (
        Sink() as sink,
        Source() as source,
        served(files, tmp_path / "daemon", sink, source) as (to_sink, to_source),
        RemoteSite(files, NAME, *options),
    ):
        data = pattern(SIZE)
        came, sent = await asyncio.gather(
            exchange(to_source, f"{SIZE}\n".encode(), seconds=240), exchange(to_sink, data, seconds=240)
        )
    right = hashlib.sha256(data).hexdigest()
    assert hashlib.sha256(came).hexdigest() == right
    assert sent.decode() == right
    assert log.read_text().count("set_newkeys: rekeying") >= SIZE // (32 << 20)


async def test_500_connections_at_once_are_served(tmp_path: Path) -> None:
    """Each client sends its own bytes and an end of file, and then gets their checksum."""
    files = SshServerFiles(tmp_path / "ssh")
    async with (
        Sink() as sink,
        served(files, tmp_path / "daemon", sink) as (to_sink,),
        RemoteSite(files, NAME, "-R", f"{NAME}:1080"),
    ):
        sent = [pattern(5_000, seed=n) for n in range(MANY)]
        came = await asyncio.gather(*(exchange(to_sink, data, seconds=120) for data in sent))
    assert [one.decode() for one in came] == [hashlib.sha256(data).hexdigest() for data in sent]
