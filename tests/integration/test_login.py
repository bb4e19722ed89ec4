"""Real sshds that require more than a key, or lack an algorithm, and the messages for that."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from proxy.config.model import GatewayConfig
from proxy.errors import RetryClass
from tests.ssh.conftest import config_for, dialled, failure
from tests.support import ssh_keys
from tests.support.sshd import Sshd, SshdFactory

pytestmark = pytest.mark.sshd


async def test_the_error_says_that_sshd_accepts_no_more_keys(sshd: Sshd) -> None:
    """The seventh key is good, but sshd closes the connection after the sixth."""
    wrong = [sshd.new_identity(f"wrong{number}", authorize=False) for number in range(7)]
    found = await failure(config_for(sshd, identity_files=[str(key) for key in (*wrong, sshd.identity)]))
    assert found.reason == "auth_failed"
    assert found.retry is RetryClass.SLOW
    assert "has refused 6 keys, and takes no more in one login (MaxAuthTries)" in str(found)
    assert "identity_files: [FILE]" in found.hint
    assert "IdentitiesOnly" in found.hint


async def test_a_login_may_need_two_keys(sshd_factory: SshdFactory) -> None:
    sshd = sshd_factory(config={"AuthenticationMethods": "publickey,publickey"})
    other = sshd.new_identity("other")
    async with dialled(config_for(sshd, identity_files=[str(sshd.identity), str(other)])):
        pass
    found = await failure(config_for(sshd))
    assert found.reason == "auth_failed"
    assert "has accepted ssh-ed25519 SHA256:" in str(found)
    assert "but wants publickey as well" in str(found)


async def test_the_error_says_that_sshd_wants_a_password_too(sshd_factory: SshdFactory) -> None:
    sshd = sshd_factory(
        config={"AuthenticationMethods": "publickey,password", "PasswordAuthentication": "yes"}
    )
    found = await failure(config_for(sshd))
    assert found.reason == "auth_failed"
    assert "has accepted ssh-ed25519 SHA256:" in str(found)
    assert "but wants password as well" in str(found)
    assert "AuthenticationMethods publickey" in found.hint


async def test_the_error_says_that_sshd_accepts_no_keys(sshd_factory: SshdFactory) -> None:
    sshd = sshd_factory(config={"PubkeyAuthentication": "no", "PasswordAuthentication": "yes"})
    found = await failure(config_for(sshd))
    assert found.reason == "auth_failed"
    assert "takes no keys from this user, only password" in str(found)


PAM = "account required pam_permit.so\nsession required pam_permit.so\nauth required "


class PamSshd(Sshd):
    """An sshd that uses the test's PAM modules, in a mount namespace of its own."""

    def __init__(self, folder: Path, module: str) -> None:
        super().__init__(
            folder,
            config={
                "UsePAM": "yes",
                "PermitRootLogin": "yes",
                "KbdInteractiveAuthentication": "yes",
                "AuthenticationMethods": "publickey,keyboard-interactive",
            },
        )
        (folder / "pam").write_text(f"{PAM}{module}\n")
        mount = f"mount --bind {folder}/pam /etc/pam.d/sshd"
        self.command = ("unshare", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh")


@pytest.mark.network
async def test_a_second_step_that_asks_nothing_is_passed(tmp_path: Path) -> None:
    """A PAM module that asks nothing, like one that only checks the address: ssh(1) logs in, and so does
    kubemux.
    """
    with PamSshd(tmp_path / "sshd", "pam_permit.so") as sshd:
        async with dialled(config_for(sshd)):
            pass
        async with asyncio.timeout(60):  # sshd answers before it writes that to its log
            while "Accepted keyboard-interactive/pam for" not in await asyncio.to_thread(sshd.log):
                await asyncio.sleep(0.01)
        other = sshd.new_identity("other", authorize=False)
        found = await failure(config_for(sshd, identity_files=[str(other)]))
        assert f"refuses user {sshd.user} with" in str(found)
        log = await asyncio.to_thread(sshd.log)
        assert log.count("keyboard-interactive/pam for") == 1, "without a key the second step is not tried"
        config = tmp_path / "ssh_config"
        config.write_text("KbdInteractiveAuthentication no\n")
        found = await failure(config_for(sshd, ssh_config=str(config)))
        assert "has accepted ssh-ed25519 SHA256:" in str(found)
        assert "but wants keyboard-interactive as well" in str(found)


@pytest.mark.network
async def test_the_error_has_the_question_of_a_second_step(tmp_path: Path) -> None:
    with PamSshd(tmp_path / "sshd", "pam_unix.so") as sshd:
        found = await failure(config_for(sshd))
        assert found.reason == "auth_failed"
        assert "has accepted ssh-ed25519 SHA256:" in str(found)
        assert "but wants keyboard-interactive as well, and asks: " in str(found)
        assert "assword:" in str(found)


async def test_a_server_that_has_only_sha1_needs_an_option(sshd_factory: SshdFactory, tmp_path: Path) -> None:
    """An old server that only has SHA-1. The message names the algorithms of both sides; an option enables
    SHA-1.
    """
    key = ssh_keys.new_key(tmp_path / "rsa_host_key", kind="rsa")
    sshd = sshd_factory(config={"HostKey": str(key), "HostKeyAlgorithms": "ssh-rsa"})
    sshd.host_key = key
    found = await failure(config_for(sshd))
    assert found.reason == "handshake_failed"
    assert "no host key algorithm in common: it has ssh-rsa, kubemux has rsa-sha2-" in str(found)
    assert ", ssh-ed25519, " in str(found)
    assert "HostKeyAlgorithms +ssh-rsa" in found.hint
    path = tmp_path / "ssh_config"
    path.write_text(
        f"Host edge\n  HostName {sshd.host}\n  Port {sshd.port}\n  User {sshd.user}\n  IdentityFile "
        f"{sshd.identity}\n"
        f"  UserKnownHostsFile {sshd.known_hosts()}\n  HostKeyAlgorithms +ssh-rsa\n"
    )
    async with dialled(GatewayConfig(host="edge", ssh_config=path)):
        pass


async def test_the_error_names_a_key_exchange_that_kubemux_lacks(sshd_factory: SshdFactory) -> None:
    found = await failure(
        config_for(sshd_factory(config={"KexAlgorithms": "sntrup761x25519-sha512@openssh.com"}))
    )
    assert found.reason == "handshake_failed"
    assert "have no key exchange in common: it has sntrup761x25519-sha512@openssh.com, kubemux has " in str(
        found
    )
    assert "add one of kubemux's to KexAlgorithms in its sshd_config" in found.hint


async def test_the_error_names_ciphers_that_kubemux_does_not_offer(sshd_factory: SshdFactory) -> None:
    found = await failure(config_for(sshd_factory(config={"Ciphers": "aes256-cbc,3des-cbc"})))
    assert "have no cipher in common: it has aes256-cbc, 3des-cbc, kubemux has aes128-gcm@openssh.com" in str(
        found
    )
    assert "Ciphers +aes256-cbc,3des-cbc" in found.hint
