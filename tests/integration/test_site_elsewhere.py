"""A site on another machine (a network namespace): it is reached by name, its address changes, its network
fails, the machine sleeps.
"""

from __future__ import annotations

import asyncio
import json
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from proxy.runtime.endpoint import Endpoint
from tests.integration.running import running, wait_for_log, wait_for_metric
from tests.support import ssh_keys
from tests.support.daemon import Daemon
from tests.support.elsewhere import FarSshd
from tests.support.ports import free_port
from tests.support.serving import closed
from tests.support.site import SshServerFiles

pytestmark = [pytest.mark.sshd, pytest.mark.network]

NAME = "factory-7"
NODE = "node-a"
"""A name that the machines of the site know."""
DIES_S = 120.0


async def dial(files: SshServerFiles, far: FarSshd, ours: str, *, keepalive: int = 1) -> Process:
    """Start the site's ssh on the far machine, with keepalives of its own, in seconds."""
    options = ("-o", f"ServerAliveInterval={keepalive}", "-o", "ServerAliveCountMax=3")
    via = Endpoint(ours, files.listen.port)
    command = files.command(NAME, "-N", "-T", *options, "-R", f"{NAME}:1080", via=via)
    return await asyncio.create_subprocess_exec(
        *far.command, *command, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE
    )


async def ended(ssh: Process) -> str:
    """Wait until ssh has ended by itself. Returns its output."""
    async with asyncio.timeout(DIES_S):
        _, said = await ssh.communicate()
    return said.decode()


async def tunnel(proxy: Endpoint, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the sshd on the far machine's loopback, by a name at the site."""
    reader, writer = await asyncio.open_connection(*proxy)
    writer.write(f"CONNECT {NAME}:{port} HTTP/1.1\r\n\r\n".encode())
    async with asyncio.timeout(DIES_S):
        assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
    return reader, writer


async def greeting(proxy: Endpoint, port: int) -> bytes:
    """The version line of that sshd."""
    reader, writer = await tunnel(proxy, port)
    try:
        async with asyncio.timeout(DIES_S):
            return await reader.readexactly(4)
    finally:
        await closed(writer)


def site(daemon: Daemon) -> dict[str, Any]:
    """The site in `/status`."""
    (one,) = json.loads(daemon.get("/status")[1])["sites"]
    return cast("dict[str, Any]", one)


@asynccontextmanager
async def bastion(
    folder: Path, files: SshServerFiles, proxy: Endpoint, *, keepalive: str = "1s", **more: object
) -> AsyncIterator[Daemon]:
    """A daemon that the far machine can reach. Its clients wait for the site."""
    async with running(
        folder,
        gateways={},
        clusters={},
        limits={"hold_timeout": "120s"},
        entries={"proxy": {"listen": str(proxy)}},
        ssh_server={**files.sections(), "listen": f"0.0.0.0:{files.listen.port}", "allow_remote": True},
        sites={
            NAME: {
                **files.authorized(NAME),
                "permit": ["127.0.0.1:*", f"{NODE}:*"],
                "keepalive": {"interval": keepalive, "max_missed": 3},
            }
        },
        **more,
    ) as daemon:
        yield daemon


@pytest.fixture
def far(tmp_path: Path) -> Iterator[FarSshd]:
    """A machine whose sshd listens on its loopback address, too."""
    with FarSshd(tmp_path / "far", names=(NODE,)) as far:
        far.reconfigure({"ListenAddress": f"{far.host}\nListenAddress 127.0.0.1"})
        far.restart()
        yield far


def ssh_config(files: SshServerFiles, far: FarSshd) -> Path:
    """A user's ssh_config, with the bastion and the node at the site."""
    known = files.folder / "known_nodes"
    known.write_text(f"{NODE} {ssh_keys.public(far.host_key)}\n")
    path = files.folder / "config"
    path.write_text(
        f"Host bastion\n HostName 127.0.0.1\n Port {files.listen.port}\n User ops\n"
        f" IdentityFile {files.key('ops')}\n UserKnownHostsFile {files.known_hosts}\n"
        f"Host {NODE}.{NAME}\n Port {far.port}\n User {far.user}\n IdentityFile {far.identity}\n"
        f" HostKeyAlias {NODE}\n UserKnownHostsFile {known}\n"
        "Host *\n BatchMode yes\n IdentitiesOnly yes\n GlobalKnownHostsFile /dev/null\n"
    )
    return path


@pytest.mark.proxy_clients
async def test_ssh_reaches_a_node_at_the_site_by_name(tmp_path: Path, far: FarSshd) -> None:
    """As with SuperEdge's tunnel, by nc and the proxy entry, and by a jump through the SSH server."""
    files, proxy = SshServerFiles(tmp_path / "ssh"), Endpoint("127.0.0.1", free_port())
    users = {"ops": files.authorized("ops")}
    config = ssh_config(files, far)
    ways = (("-o", f"ProxyCommand=nc -X connect -x {proxy} %h %p"), ("-J", "bastion"))
    async with bastion(tmp_path / "daemon", files, proxy, keepalive="30s", users=users) as daemon:
        dialled = await dial(files, far, far.ours, keepalive=30)
        await wait_for_log(daemon, "link up", gateway=NAME)
        for way in ways:
            ssh = await asyncio.create_subprocess_exec(
                *("ssh", "-F", str(config), *way, f"{NODE}.{NAME}", "echo $SSH_CONNECTION"),
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=PIPE,
            )
            async with asyncio.timeout(DIES_S):
                said, complaints = await ssh.communicate()
            assert said.split()[2:] == [far.host.encode(), str(far.port).encode()], complaints
        dialled.kill()
        await dialled.communicate()


async def test_a_site_whose_address_changes_is_back_at_once(tmp_path: Path, far: FarSshd) -> None:
    """Neither side notices the change: packets of the first connection are lost. The second login does not
    wait for that.
    """
    files, proxy = SshServerFiles(tmp_path / "ssh"), Endpoint("127.0.0.1", free_port())
    async with bastion(tmp_path / "daemon", files, proxy) as daemon:
        first = await dial(files, far, far.ours)
        up = await wait_for_log(daemon, "link up", gateway=NAME)
        assert far.host in str(up["server"])
        assert await greeting(proxy, far.port) == b"SSH-"

        ours, theirs = far.move()
        second = await dial(files, far, ours)
        await wait_for_log(daemon, "link up", gateway=NAME, link=f"{NAME}/2")
        assert await greeting(proxy, far.port) == b"SSH-"
        assert theirs in str(site(daemon)["links"])

        lost = await wait_for_log(daemon, "link lost", gateway=NAME)
        assert (lost["link"], lost["reason"]) == (f"{NAME}/1", "keepalive_timeout")
        assert "not responding" in await ended(first)
        assert await greeting(proxy, far.port) == b"SSH-"
        second.kill()
        await second.communicate()


async def test_a_site_comes_back_after_a_network_failure_and_after_sleep(
    tmp_path: Path, far: FarSshd
) -> None:
    """Both sides receive nothing for longer than their keepalives, not even an end of file. With a closed lid
    the site's ssh does not run either. Clients wait for the next login.
    """
    files, proxy = SshServerFiles(tmp_path / "ssh"), Endpoint("127.0.0.1", free_port())
    async with bastion(tmp_path / "daemon", files, proxy) as daemon:
        ssh = await dial(files, far, far.ours)
        for number, is_frozen in enumerate((False, True), 1):
            link = f"{NAME}/{number}"
            await wait_for_log(daemon, "link up", gateway=NAME, link=link)
            reader, writer = await tunnel(proxy, far.port)
            assert await reader.readexactly(4) == b"SSH-"

            if is_frozen:
                ssh.send_signal(signal.SIGSTOP)
            far.pull()
            lost = await wait_for_log(daemon, "link lost", gateway=NAME, link=link)
            assert lost["reason"] == "keepalive_timeout"
            with pytest.raises(ConnectionResetError):
                await reader.read()
            await closed(writer)
            async with asyncio.TaskGroup() as group:
                waiting = group.create_task(greeting(proxy, far.port))
                if not is_frozen:
                    assert "not responding" in await ended(ssh)
                far.plug()
                if is_frozen:
                    ssh.send_signal(signal.SIGCONT)
                    await ended(ssh)
                assert not waiting.done()
                ssh = await dial(files, far, far.ours)
                assert await waiting == b"SSH-"
        cut = await wait_for_log(daemon, "connection closed", site=NAME, reason="keepalive_timeout")
        assert cut["asked"] == f"{NAME}:{far.port}"
        await wait_for_metric(daemon, 0, "kubemux_entry_connections_active", entry="proxy")
        one = site(daemon)
        assert (len(one["links"]), one["retiring"], one["reconnects"]) == (1, [], 2)
        await asyncio.to_thread(
            daemon.wait_for, "no channel", lambda: not site(daemon)["links"][0]["channels"]
        )
        ssh.kill()
        await ssh.communicate()
