"""Links of sites: several logins with one key, dead links, reloads, and refusals of the SSH server."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.integration.running import wait_for_log
from tests.integration.sites import ALL, Bed, bed
from tests.integration.test_life import kubemux
from tests.support import ssh_keys
from tests.support.daemon import Sections
from tests.support.echo import pattern
from tests.support.ports import free_port
from tests.support.site import RemoteSite

pytestmark = pytest.mark.sshd

OPENED = "200 Connection established"


async def tunnel(one: Bed, host: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection through the entry that stays open."""
    reader, writer = await asyncio.open_connection(*one.proxy)
    writer.write(f"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    async with asyncio.timeout(30):
        assert OPENED in (await reader.readuntil(b"\r\n\r\n")).decode()
    return reader, writer


async def echoes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    async with asyncio.timeout(30):
        writer.write(b"still here")
        return await reader.readexactly(10) == b"still here"


async def test_one_login_more_replaces_the_oldest_link_and_cuts_nothing(tmp_path: Path) -> None:
    async with bed(tmp_path, {"edge": {**ALL, "connections": 1}}) as one:
        here = f"edge:{one.echo.port}"
        async with one.ssh("edge", "edge:1080") as first:
            [old] = await one.links("edge", 1)
            reader, writer = await tunnel(one, here)
            async with one.ssh("edge", "edge:1080"):
                site = await one.until("edge", "the first retires", lambda site: bool(site["retiring"]))
                assert site["retiring"][0]["address"] == old["address"]
                assert site["links"][0]["address"] != old["address"]
                assert await echoes(reader, writer)
                writer.close()
                await writer.wait_closed()
                assert "closed by remote host" in await first.ended()
                site = await one.until("edge", "the first has gone", lambda site: not site["retiring"])
                assert (site["state"], site["reconnects"]) == ("up", 1)
                payload = pattern(10_000)
                assert await one.ask(here, payload) == (OPENED, payload)


async def test_a_site_that_is_silent_is_detected_and_its_next_login_does_not_wait(tmp_path: Path) -> None:
    never, soon = ({"interval": interval, "max_missed": 3} for interval in ("1h", "1s"))
    sites: dict[str, Sections] = {
        "edge": {**ALL, "keepalive": never},
        "lid": {**ALL, "keepalive": never, "connections": 1},
    }
    async with bed(tmp_path, sites) as one:
        async with one.ssh("edge", "edge:1080") as frozen, one.ssh("edge") as silent:
            await one.until("edge", "a caller", lambda site: len(site["callers"]) == 1)
            await one.links("edge", 1)
            for each in (frozen, silent):
                each.process.send_signal(signal.SIGSTOP)
            sections = {name: {**one.files.authorized(name), **site} for name, site in sites.items()}
            await one.reload(sites={**sections, "edge": {**sections["edge"], "keepalive": soon}})
            site = await one.until("edge", "found out", lambda site: not (site["links"] or site["callers"]))
            assert (site["state"], site["reason"]) == ("down", "keepalive_timeout")
            status, _ = await one.ask("edge:1")
            assert status.startswith(("503 ", "504 ")), status
        async with one.ssh("lid", "lid:1080") as dead:
            await one.links("lid", 1)
            dead.process.send_signal(signal.SIGSTOP)  # its keepalive would take two hours
            async with one.ssh("lid", "lid:1080"):
                site = await one.until("lid", "the second link", lambda site: site["reconnects"] == 1)
                payload = pattern(10_000)
                assert await one.ask(f"lid:{one.echo.port}", payload) == (OPENED, payload)


REFUSED = {
    "Edge:1080": "-R Edge:1080 has capitals, and names are asked for in lower case: write edge:1080",
    "edge:0": "-R edge:0: kubemux chooses no port, so write one, as in -R edge:1080",
    "6443:127.0.0.1:6443": "-R 6443 has no name: write -R edge:6443, or -R NAME:6443:HOST:PORT",
    "other:1080": "-R other:1080 has the name of another site, and this is edge",
    "kube:9:127.0.0.1:9": "-R kube:9: the options of the key do not allow it",
}
"""The message that ssh prints for each refused forward."""


async def ended(ssh: RemoteSite) -> str:
    """The output of ssh after kubemux has ended the connection."""
    async with ssh:
        return await ssh.ended()


async def test_each_forward_that_is_refused_has_a_sentence(tmp_path: Path) -> None:
    sites = {"edge": {**ALL, "max_forwards": 2}, "other": ALL, "few": {**ALL, "max_forwards": 2}}
    listens = 'permitlisten="*dge:*",permitlisten="localhost:*",permitlisten="other:*"'
    async with bed(tmp_path, sites, options={"edge": listens}) as one:
        said = await asyncio.gather(*(ended(one.ssh("edge", forward)) for forward in REFUSED))
        for text, sentence in zip(said, REFUSED.values(), strict=True):
            assert f"kubemux: {sentence}" in text
        await ended(one.ssh("edge", "edge:0"))
        await wait_for_log(one.daemon, "site flaps", site="edge")  # its links are at level debug now
        told = {entry["link"] for entry in one.daemon.events("link lost") if entry["gateway"] == "edge"}
        assert "edge/6" not in told
        text = await ended(one.ssh("few", *(f"kube:{port}:127.0.0.1:1" for port in (1, 2, 3))))
        assert "kubemux: -R kube:3: sites.few.max_forwards is 2" in text
        text = await ended(one.ssh("few", "few:1080", "few:1081"))
        assert "kubemux: -R few:1081: -R few:1080 is there already, and one is enough" in text
        lost = await wait_for_log(one.daemon, "link lost", gateway="few")
        assert lost["reason"] == "forward_refused"
        site = await one.until("few", "both links", lambda site: "-R few:1081: " in str(site["refused"]))
        assert (site["state"], site["reason"]) == ("connecting", "forward_refused")


async def test_a_login_by_the_name_of_another_site_is_refused(tmp_path: Path) -> None:
    async with bed(tmp_path, {"edge": ALL, "other": ALL}) as one:
        text = await ended(one.ssh("edge", "edge:1080", user="other"))
        assert "Permission denied" in text
        entry = await wait_for_log(one.daemon, "login refused", reason="other_name")
        assert str(entry["message"]).count("SHA256:") == 2
        refusal = one.told("other")["refused"]
        assert (refusal["reason"], refusal["message"]) == ("other_name", entry["message"])


async def test_a_reload_keeps_the_links_of_sites_that_stay(tmp_path: Path) -> None:
    sites: dict[str, Any] = {"edge": ALL, "gone": ALL}
    async with (
        bed(tmp_path, sites) as one,
        one.ssh("edge", "edge:1080"),
        one.ssh("edge", "edge:1080"),
        one.ssh("gone", "gone:1") as gone,
    ):
        first, _ = await one.links("edge", 2)
        await one.links("gone", 1)
        reader, writer = await tunnel(one, f"edge:{one.echo.port}")
        edge = {**one.files.authorized("edge"), "permit": [f"127.0.0.1:{one.echo.port}"]}
        await one.reload(sites={"edge": {**edge, "keepalive": {"interval": "1m"}}})
        await gone.ended()
        assert (await one.links("edge", 2))[0]["address"] == first["address"]
        assert await echoes(reader, writer)
        status, _ = await one.ask("edge:1")
        assert "sites.edge.permit does not have 127.0.0.1:1" in status
        status, _ = await one.ask("gone:1")
        assert status.startswith("404 ")

        await one.reload(sites={"edge": {**edge, "connections": 1}})
        await one.links("edge", 1)
        assert await echoes(reader, writer)
        writer.close()
        await writer.wait_closed()

        another = ssh_keys.public(one.files.key("another"))
        (one.files.folder / "edge.authorized").write_text(f"{another}\n")
        await one.reload(sites={"edge": {**edge, "connections": 1}})
        await wait_for_log(one.daemon, "link lost", gateway="edge", reason="key_removed")
        assert (await one.links("edge", 0)) == []


async def test_a_dynamic_forward_without_a_socks5_server_is_refused(tmp_path: Path) -> None:
    """-R with the site's own name and a target is not a SOCKS server."""
    async with bed(tmp_path, {"edge": ALL}) as one:
        text = await ended(one.ssh("edge", f"edge:1080:127.0.0.1:{free_port()}"))
        assert "kubemux: -R edge:1080 leads nowhere: " in text
        assert "with the site's own name, -R takes no target" in text
        site = await one.until("edge", "refused", lambda site: site["refused"] is not None)
        assert "leads nowhere" in site["refused"]["message"]


async def test_a_drain_of_a_site_ends_all_that_leads_through_it_until_a_reload(tmp_path: Path) -> None:
    async with bed(tmp_path, {"edge": ALL, "other": ALL}, routes=[]) as one:
        here, by_route = f"edge:{one.echo.port}", "far:1"
        target = f"127.0.0.1:{one.echo.port}"
        routes = [{"name": "far", "match": [by_route], "gateway": "edge", "target": target}]
        await one.reload(routes=routes)
        async with one.ssh("edge", "edge:1080"), one.ssh("other", "other:1080"):
            await one.links("edge", 1)
            await one.links("other", 1)
            cut = [await tunnel(one, host) for host in (here, by_route)]
            stays = await tunnel(one, f"other:{one.echo.port}")
            said = await asyncio.to_thread(kubemux, "drain", "edge", "--config", one.daemon.config)
            assert said == "edge: drained (route far, site edge), 2 connections cut\n"
            for reader, writer in cut:
                with suppress(ConnectionResetError):
                    assert await reader.read() == b""
                writer.close()
            status, _ = await one.ask(here)
            assert status == "503 kubemux: edge: drained (site edge is drained)"
            assert one.told("edge")["drained"] is True
            assert await echoes(*stays)
            stays[1].close()

            await one.reload(routes=routes)
            assert one.daemon.events("reloaded")[-1]["changed"] == ["route far", "site edge"]
            payload = pattern(10_000)
            assert await one.ask(here, payload) == (OPENED, payload)
            assert await one.ask(by_route, payload) == (OPENED, payload)


async def test_a_drain_does_not_end_connections_that_a_reload_lets_in_meanwhile(tmp_path: Path) -> None:
    limits = {"drain_timeout": "5s", "hold_timeout": "60s"}
    async with bed(tmp_path, {"edge": ALL, "away": ALL}, limits=limits) as one, asyncio.TaskGroup() as group:

        async def drain(site: str) -> str:
            return await asyncio.to_thread(kubemux, "drain", site, "--config", one.daemon.config)

        here = f"edge:{one.echo.port}"
        async with one.ssh("edge", "edge:1080"):
            await one.links("edge", 1)
            reader, old = await tunnel(one, here)
            waiting = group.create_task(one.ask("away:1"))
            await one.until("away", "a client waits", lambda site: site["connections"] == 1)
            drains = [group.create_task(drain(site)) for site in ("edge", "away")]
            for site in ("edge", "away"):
                await one.until(site, "it is drained", lambda site: bool(site["drained"]))
            await one.reload()
            new = await tunnel(one, here)
            said = [await task for task in drains]
            assert said == [f"{site}: drained (site {site}), 1 connection cut\n" for site in ("edge", "away")]
            with suppress(ConnectionResetError):
                assert await reader.read() == b""
            old.close()
            status, _ = await waiting
            assert status == "503 kubemux: away: shutdown"
            assert await echoes(*new)
            new[1].close()
