"""Limits of a site: channels that it opens itself, and forwards, while other sites are not affected. And what
its own ssh lets kubemux reach.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import pytest

from proxy.runtime.endpoint import Endpoint
from tests.integration.running import wait_for_log
from tests.integration.sites import ALL, bed
from tests.integration.test_site_links import OPENED, echoes, tunnel
from tests.support.daemon import Sections
from tests.support.echo import Echo, exchange, pattern
from tests.support.ports import free_port
from tests.support.serving import closed
from tests.support.site import RemoteSite

pytestmark = pytest.mark.sshd

FEW: Final = 2
FORWARDS: Final = 64
"""The default of `max_forwards`."""


async def test_a_channel_too_many_is_refused_and_other_sites_go_on(tmp_path: Path) -> None:
    """Each site opens channels (its `-L`) to a service behind another site, by the name of a cluster."""
    async with Echo() as service:
        asked = {name: Endpoint("127.0.0.1", free_port()) for name in ("few", "many")}
        shared: Sections = {
            "gateway": "region",
            "api_servers": [str(service.endpoint)],
            "allow": [f"site:{name}" for name in asked],
            "probe": {"interval": "1h"},
        }
        sites: dict[str, Sections] = {"few": {**ALL, "max_channels": FEW}, "many": ALL, "region": ALL}
        async with bed(tmp_path, sites, clusters={"shared": shared}) as one, one.ssh("region", "region:1080"):
            few, many = (
                RemoteSite(one.files, name, "-R", f"{name}:1080", "-L", f"{port}:shared:443")
                for name, port in asked.items()
            )
            async with few, many:
                for name in sites:
                    await one.links(name, 1)
                refused = "kubemux_entry_connections_total"
                own = [await asyncio.open_connection(*asked["few"]) for _ in range(FEW)]
                for reader, writer in own:
                    assert await echoes(reader, writer)
                assert await exchange(asked["few"], b"") == b""  # ssh closes it: it got no channel
                assert one.daemon.metric(refused, entry="ssh", result="limit") == 1
                [line] = one.daemon.events("channels refused")
                assert (line["caller"], line["reason"], line["channels"]) == ("site:few", "limit", 1)
                assert line["message"] == f"sites.few.max_channels is {FEW}, and as many are open"
                payload = pattern(10_000)
                for _ in range(FEW + 1):
                    assert await exchange(asked["many"], payload) == payload
                # What kubemux asks of this site is not the site's own.
                towards = [await tunnel(one, f"few:{one.echo.port}") for _ in range(FEW + 1)]
                for reader, writer in (*own, *towards):
                    assert await echoes(reader, writer)
                await closed(own.pop()[1])
                await one.until("few", "room again", lambda site: site["links"][0]["channels"] == FEW + FEW)
                assert await exchange(asked["few"], payload) == payload
                for _, writer in (*own, *towards):
                    await closed(writer)
                few.process.terminate()
                said = await few.ended()
    assert said.count("open failed") == 1
    assert f"kubemux: limit (sites.few.max_channels is {FEW}, and as many are open)" in said


async def test_a_site_has_64_forwards(tmp_path: Path) -> None:
    async with bed(tmp_path, {"edge": ALL, "other": ALL}) as one, one.ssh("other", "other:1080"):
        forwards = [f"kube:{n}:{one.echo}" for n in range(1, FORWARDS + 1)]
        async with one.ssh("edge", *forwards):
            [link] = await one.links("edge", 1)
            await one.until("edge", "all", lambda site: len(site["links"][0]["forwards"]) == FORWARDS)
            payload = pattern(1_000)
            assert await one.ask(f"kube.edge:{FORWARDS}", payload) == (OPENED, payload)
            async with one.ssh("edge", *forwards, "edge:1080") as greedy:
                said = await greedy.ended()
            assert f"kubemux: -R edge:1080: sites.edge.max_forwards is {FORWARDS}" in said
            lost = await wait_for_log(one.daemon, "link lost", gateway="edge")
            assert lost["reason"] == "forward_refused"
            assert await one.ask(f"kube.edge:{FORWARDS}", payload) == (OPENED, payload)
            assert await one.ask(f"other:{one.echo.port}", payload) == (OPENED, payload)
            assert link["address"] in {each["address"] for each in one.told("edge")["links"]}


async def test_the_site_itself_limits_what_kubemux_reaches(tmp_path: Path) -> None:
    """`permit` allows both targets, and the site's PermitRemoteOpen only one. Neither is about a fixed
    forward.
    """
    async with Echo() as other, bed(tmp_path, {"edge": ALL}) as one:
        forwards = ("-R", "edge:1080", "-R", f"kube:7:{other.endpoint}")
        limits = ("-o", f"PermitRemoteOpen={one.echo}")
        async with RemoteSite(one.files, "edge", *limits, *forwards):
            await one.links("edge", 1)
            payload = pattern(1_000)
            assert await one.ask(f"edge:{one.echo.port}", payload) == (OPENED, payload)
            status, _ = await one.ask(f"edge:{other.endpoint.port}")
            assert status.startswith("502 kubemux: edge: channel_refused (")
            assert "PermitRemoteOpen" in status
            assert await one.ask("kube.edge:7", payload) == (OPENED, payload)
