"""Logins of OpenSSH's own client at the SSH server."""

from __future__ import annotations

import asyncio
import socket
from contextlib import closing
from pathlib import Path

import paramiko  # type: ignore[import-untyped]
import pytest
from structlog.testing import capture_logs

from proxy.errors import KeyRemoved
from proxy.errors.reasons import Reason
from proxy.ssh.login.algorithms import ENCRYPTION
from proxy.ssh.server import host_keys
from proxy.ssh.server.session import Session
from tests.support import ssh_keys
from tests.support.ssh_bed import WAIT_S, SshBed, ended

pytestmark = pytest.mark.sshd


async def test_the_key_decides_the_identity_not_the_user_name(tmp_path: Path) -> None:
    async with SshBed(tmp_path / "bed") as bed:
        for name in ("ops", "whoever"):
            found = await bed.ssh(bed.ops, "true", user=name)
            assert found.code == 255
            assert "kubemux only forwards: use ssh -J, -W, -L or -D (with -N)" in found.said
        assert [one.session.login.identity for one in bed.guests if one.session.login] == ["ssh-user:ops"] * 2
        assert bed.record.results == {Reason.OK: 2}
        assert bed.record.startups == 0


@pytest.mark.parametrize("cipher", ENCRYPTION)
async def test_a_login_gets_the_packets_that_it_needs(tmp_path: Path, cipher: str) -> None:
    """asyncssh would send an IGNORE before each packet."""
    async with SshBed(tmp_path / "bed") as bed:
        found = await bed.ssh(bed.ops, "-vvv", "-c", cipher, "true")
    assert f"debug1: kex: server->client cipher: {cipher}" in found.said
    assert "debug3: receive packet: type 52" in found.said, "the login has succeeded"
    assert "SSH2_MSG_IGNORE" not in found.said


async def test_a_client_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    async with SshBed(tmp_path / "bed") as bed:
        with capture_logs() as logs:
            found = await bed.ssh(bed.stranger, "true", user="ops")
        assert "Permission denied (publickey)" in found.said
        assert not bed.guests
    refused = [line for line in logs if line["event"] == "login refused"]
    assert [line["reason"] for line in refused] == [Reason.UNKNOWN_KEY]
    assert (refused[0]["user"], refused[0]["log_level"]) == ("ops", "warning")
    assert refused[0]["message"] == f"no user and no site has the key {ssh_keys.fingerprint(bed.stranger)}"
    assert refused[0]["hint"] == Reason.UNKNOWN_KEY.remedy


async def test_a_second_key_is_accepted_although_the_service_is_requested_again(tmp_path: Path) -> None:
    """paramiko requests it before each key."""
    async with SshBed(tmp_path / "bed") as bed:

        def log_in() -> bool:
            with closing(paramiko.Transport(socket.create_connection(bed.address, timeout=WAIT_S))) as client:
                client.start_client(timeout=WAIT_S)
                stranger, ops = map(
                    paramiko.Ed25519Key.from_private_key_file, map(str, (bed.stranger, bed.ops))
                )
                with pytest.raises(paramiko.AuthenticationException):
                    client.auth_publickey("ops", stranger)
                client.auth_publickey("ops", ops)
                return bool(client.is_authenticated())

        assert await asyncio.to_thread(log_in)
        assert bed.record.results == {Reason.OK: 1}


async def test_the_name_of_another_user_is_refused_with_both_fingerprints(tmp_path: Path) -> None:
    async with SshBed(tmp_path / "bed") as bed:
        with capture_logs() as logs:
            found = await bed.ssh(bed.factory, "-N", user="ops")
        assert "Permission denied" in found.said
    line = next(line for line in logs if line["event"] == "login refused")
    assert line["reason"] == Reason.OTHER_NAME
    assert ssh_keys.fingerprint(bed.factory) in line["message"]
    assert ssh_keys.fingerprint(bed.ops) in line["message"]


async def test_removing_a_key_ends_its_connections(tmp_path: Path) -> None:
    async with SshBed(tmp_path / "bed") as bed:
        client = await bed.start(bed.factory, "-N")
        guest = await bed.logged_in()
        bed.authorize("sites", "factory-7", ssh_keys.public(bed.stranger))
        bed.reread()
        async with asyncio.timeout(30):
            await guest.gone
            _, said = await client.communicate()
        assert isinstance(guest.error, KeyRemoved)
        assert b"kubemux: key_removed" in said
        await ended(client)


async def test_the_options_of_a_key_may_change_while_its_client_is_connected(tmp_path: Path) -> None:
    async with SshBed(tmp_path / "bed") as bed:
        client = await bed.start(bed.factory, "-N")
        guest = await bed.logged_in()
        bed.authorize("sites", "factory-7", f'permitlisten="a:1" {ssh_keys.public(bed.factory)}')
        bed.reread()
        login = guest.session.login
        assert login
        assert (login.may_listen("a", 1), login.may_listen("b", 1), guest.rechecks) == (True, False, 1)
        assert guest.error is None
        await ended(client)


async def test_sessions_and_forwards_are_refused(tmp_path: Path) -> None:
    """Without an owner of the login, every request is refused."""
    async with SshBed(tmp_path / "bed") as bed:
        found = await bed.ssh(bed.ops, "-W", "127.0.0.1:22")
        assert "opens no channels on this connection" in found.said
        found = await bed.ssh(bed.factory, "-N", "-R", "factory-7:1080", "-o", "ExitOnForwardFailure=yes")
        assert "remote port forwarding failed" in found.said


async def test_clients_learn_the_next_host_key(tmp_path: Path) -> None:
    """With two host keys of one type, the first is used, and OpenSSH's UpdateHostKeys learns the other."""
    async with SshBed(tmp_path / "bed") as bed:
        following = ssh_keys.new_key(bed.folder / "following")
        bed.server.use(bed.config, host_keys.read([bed.host_key, following]))
        client = await bed.start(bed.factory, "-N", "-o", "UpdateHostKeys=yes")
        async with asyncio.timeout(60):
            while ssh_keys.public(following) not in bed.known_hosts.read_text():
                await asyncio.sleep(0.02)
        await ended(client)


async def test_a_client_that_is_gone_when_its_login_succeeds_has_no_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncssh accepts the login in the same turn of the loop in which the connection is lost."""
    check = Session.check

    def lost_meanwhile(session: Session, asked: str, blob: bytes, message: bytes, signature: bytes) -> bool:
        is_in = check(session, asked, blob, message, signature)
        if signature:
            session.conn.connection_lost(None)
        return is_in

    monkeypatch.setattr(Session, "check", lost_meanwhile)
    async with SshBed(tmp_path / "bed") as bed:
        with capture_logs() as logs:
            assert (await bed.ssh(bed.factory, "-N")).code == 255
            async with asyncio.timeout(30):
                await bed.quiet()
        assert not bed.guests
        assert bed.record.results == {Reason.NO_LOGIN: 1}
    assert [line["event"] for line in logs] == ["login refused"]
    assert logs[0]["message"] == "it has left while its login succeeded"
