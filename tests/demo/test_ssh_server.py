"""The embedded SSH server, dialled with asyncssh's own client."""

from __future__ import annotations

import asyncio

import asyncssh
import pytest

from proxy.demo import ssh_server
from proxy.demo.stage import Stage
from proxy.runtime.endpoint import Endpoint
from tests.demo.conftest import trusting
from tests.support.asking import Asker


async def dial(stage: Stage, *, key: asyncssh.SSHKey | None = None) -> asyncssh.SSHClientConnection:
    gateway = stage.config.gateways["bastion"]
    assert gateway.port is not None
    return await asyncssh.connect(
        gateway.host,
        gateway.port,
        username="demo",
        client_keys=[key or str(gateway.identity_files[0])],
        known_hosts=str(gateway.known_hosts[0]),
        config=None,
        agent_path=None,
    )


async def test_the_server_forwards_to_the_stand_ins(stage: Stage) -> None:
    async with await dial(stage) as conn:
        for name, cluster in stage.config.clusters.items():
            async with conn.forward_local_port("127.0.0.1", 0, *cluster.api_servers[0]) as listener:
                through = Endpoint("127.0.0.1", listener.get_port())
                assert (
                    await Asker(through, trusting(stage, name), "kubernetes").get("/healthz")
                ).text == "ok"


async def test_the_server_forwards_to_nothing_else(stage: Stage) -> None:
    async with await dial(stage) as conn:
        for target in [
            stage.config.admin.listen,
            Endpoint("localhost", stage.config.clusters["berlin"].api_servers[0].port),
        ]:
            with pytest.raises(asyncssh.ChannelOpenError) as caught:
                await conn.open_connection(*target)
            assert caught.value.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED


async def test_the_server_gives_no_shell_and_no_listening_port(stage: Stage) -> None:
    async with await dial(stage) as conn:
        with pytest.raises(asyncssh.ChannelOpenError):
            await conn.run("id")
        with pytest.raises(asyncssh.ChannelListenError):
            await conn.forward_remote_port("127.0.0.1", 0, "127.0.0.1", 1)


async def test_the_server_refuses_another_key(stage: Stage) -> None:
    with pytest.raises(asyncssh.PermissionDenied):
        await dial(stage, key=asyncssh.generate_private_key("ssh-ed25519"))


async def test_the_server_shows_the_host_key_that_known_hosts_has(stage: Stage) -> None:
    gateway = stage.config.gateways["bastion"]
    gateway.known_hosts[0].write_bytes(
        f"[127.0.0.1]:{gateway.port} ".encode()
        + asyncssh.generate_private_key("ssh-ed25519").export_public_key()
    )
    with pytest.raises(asyncssh.HostKeyNotVerifiable):
        await dial(stage)


async def test_the_end_of_the_server_closes_its_connections(stage: Stage) -> None:
    async with asyncio.timeout(30):
        second = asyncssh.generate_private_key("ssh-ed25519")
        authorized = ssh_server.authorized_key(
            second.export_public_key().decode(), [stage.config.admin.listen]
        )
        async with ssh_server.serve(
            stage.daemon_sockets[stage.config.admin.listen], stage.ssh_host_key, authorized
        ):
            conn = await asyncssh.connect(
                *stage.config.admin.listen,
                known_hosts=None,
                client_keys=[second],
                config=None,
                agent_path=None,
                username="demo",
            )
        await conn.wait_closed()
