"""Forwards, channels, and connections through a site end when the SSH server no longer permits them: after a
reload, or when its files of keys are read again. What is still permitted goes on.
"""

from __future__ import annotations

import asyncio
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from proxy.ssh.planes import DATA_PLANE
from tests.integration.jumping import SITE, jumping
from tests.integration.running import changed, reread, wait_for_log
from tests.integration.sites import ALL, bed
from tests.integration.test_site_links import echoes, tunnel
from tests.integration.test_ssh_users import BANNER, Clients, ended
from tests.support.daemon import Daemon

pytestmark = pytest.mark.sshd

PLANES = ["native", "asyncssh"]


def reasons(daemon: Daemon, asked: str) -> list[object]:
    closed = [one for one in daemon.events("connection closed") if one.get("asked") == asked]
    return [one["reason"] for one in closed]


@pytest.mark.parametrize("plane", PLANES)
def test_channels_of_users_end_when_they_are_no_longer_permitted(tmp_path: Path, plane: str) -> None:
    with jumping(tmp_path, plane=plane, expected_errors={"reload rejected"}) as one, ExitStack() as stack:
        clients, daemon = Clients(one, stack), one.daemon

        def connected(user: str, asked: str) -> subprocess.Popen[bytes]:
            process = clients.start("-W", asked, user)
            assert process.stdout
            assert process.stdout.read(len(BANNER)) == BANNER
            return process

        here, there, other = (
            connected("bastion", "node-a:22"),
            connected("bastion", "node-b:22"),
            connected("narrow", "node-a:22"),
        )
        # `ended` closes the client's input, which would be another reason.
        one.files.authorized("ops", 'permitopen="node-a:22"')
        reread(daemon)
        daemon.wait_for("its reason", lambda: reasons(daemon, "node-b:22") == ["denied"])
        ended(there)

        changed(daemon, lambda config: config["routes"][0].update(allow=["ssh-user:narrow"]))
        daemon.wait_for("its reason", lambda: reasons(daemon, "node-a:22") == ["denied"])
        ended(here)

        # The file of keys alone is used, too, when the configuration is refused.
        one.files.authorized("narrow", "no-port-forwarding")
        daemon.config.write_text("{")
        reread(daemon, "reload rejected")
        daemon.wait_for("its reason", lambda: reasons(daemon, "node-a:22") == ["denied", "denied"])
        ended(other)


def test_channels_of_sites_end_when_they_are_no_longer_permitted(tmp_path: Path) -> None:
    with jumping(tmp_path) as one, ExitStack() as stack:
        clients, daemon = Clients(one, stack), one.daemon
        changed(daemon, lambda config: config["routes"][0].update(allow=["any"]))
        site, user = clients.connected(SITE), clients.connected("bastion")
        changed(daemon, lambda config: config["routes"][0].pop("allow"))  # sites need one
        daemon.wait_for("its reason", lambda: reasons(daemon, "node-a:22") == ["denied"])
        ended(site)
        assert user.poll() is None


def test_a_client_that_waits_for_its_channel_is_refused_when_it_is_no_longer_permitted(
    tmp_path: Path,
) -> None:
    with jumping(tmp_path, limits={"hold_timeout": "5m", "drain_timeout": "2s"}) as one, ExitStack() as stack:
        daemon = one.daemon
        one.sshd.stop()
        daemon.wait_for("no link", lambda: daemon.metric("kubemux_gateway_connected", gateway="edge") == 0)
        waiting = Clients(one, stack).start("-W", "node-a:22", "bastion")
        active = "kubemux_entry_connections_active"
        daemon.wait_for("it waits", lambda: daemon.metric(active, entry="ssh") == 1)
        changed(daemon, lambda config: config["routes"][0].update(allow=["ssh-user:narrow"]))
        daemon.wait_for("its reason", lambda: reasons(daemon, "node-a:22") == ["denied"])
        assert "kubemux: node-a: denied" in ended(waiting)


@pytest.mark.parametrize("plane", PLANES)
async def test_permit_decides_which_targets_a_site_is_asked_for(tmp_path: Path, plane: str) -> None:
    sites = {"edge": {"permit": ["127.0.0.1:*", "localhost:*"]}}
    async with bed(tmp_path, sites, routes=[], environment={DATA_PLANE: plane}) as one:
        port = one.echo.port
        route = {"name": "far", "match": ["*.far:1"], "gateway": "edge", "target": f"{{1}}:{port}"}
        await asyncio.to_thread(changed, one.daemon, lambda config: config["routes"].append(route))
        async with one.ssh("edge", "edge:1080"):
            await one.links("edge", 1)
            numbers, by_route = await tunnel(one, f"edge:{port}"), await tunnel(one, "localhost.far:1")
            permit = {"permit": ["127.0.0.1:*"]}
            await asyncio.to_thread(
                changed, one.daemon, lambda config: config["sites"]["edge"].update(permit)
            )
            async with asyncio.timeout(60):
                with pytest.raises(ConnectionResetError):
                    await by_route[0].read()
            closed = await wait_for_log(one.daemon, "connection closed", asked="localhost.far:1")
            assert closed["reason"] == "channel_prohibited"
            assert await echoes(*numbers)
            for _, writer in (numbers, by_route):
                writer.close()


@pytest.mark.parametrize("plane", PLANES)
async def test_forwards_of_sites_end_when_they_are_no_longer_permitted(tmp_path: Path, plane: str) -> None:
    sites = {"edge": {**ALL, "connections": 2}, "other": ALL}
    async with bed(tmp_path, sites, environment={DATA_PLANE: plane}) as one:
        fixed, dynamic = f"kube:6443:127.0.0.1:{one.echo.port}", "edge:1080"
        async with one.ssh("edge", fixed) as ends, one.ssh("edge", dynamic), one.ssh("other", "other:1080"):
            await one.links("edge", 2)
            await one.links("other", 1)
            one.files.authorized("edge", 'permitlisten="edge:1080"')
            await asyncio.to_thread(reread, one.daemon)
            sentence = "-R kube:6443: the options of the key do not allow it any more"
            assert f"kubemux: {sentence}" in await ends.ended()
            [link] = await one.links("edge", 1)
            assert link["forwards"] == [dynamic]
            refused = (await one.until("edge", "why", lambda site: bool(site["refused"])))["refused"]
            assert (refused["reason"], refused["message"]) == ("forward_refused", sentence)
            await one.links("other", 1)


async def test_a_forward_with_the_name_of_a_site_that_a_reload_adds_ends(tmp_path: Path) -> None:
    async with bed(tmp_path, {"edge": ALL}) as one, one.ssh("edge", "other:6443:127.0.0.1:1") as ends:
        await one.links("edge", 1)
        added = {"other": {**one.files.authorized("other"), **ALL}}
        await asyncio.to_thread(changed, one.daemon, lambda config: config["sites"].update(added))
        assert "-R other:6443 has the name of another site, and this is edge" in await ends.ended()
