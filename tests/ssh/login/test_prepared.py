"""The options that asyncssh gets: keepalive intervals, and authentication by public keys only."""

from __future__ import annotations

from pathlib import Path

import asyncssh
import pytest

from proxy.config.model import GatewayConfig, KeepaliveConfig
from proxy.errors import CredentialsUnusable
from proxy.ssh.login.prepared import prepare
from tests.support import ssh_keys


@pytest.fixture
def config(tmp_path: Path) -> GatewayConfig:
    known_hosts = tmp_path / "known_hosts"
    known_hosts.touch()
    return GatewayConfig(
        host="192.0.2.1", identity_files=(ssh_keys.new_key(tmp_path / "key"),), known_hosts=(known_hosts,)
    )


@pytest.mark.parametrize(("interval", "max_missed"), [(15.0, 3), (0.2, 1), (60.0, 10)])
async def test_a_silent_peer_is_asked_each_time_and_given_up_in_time(
    config: GatewayConfig, interval: float, max_missed: int
) -> None:
    """asyncssh counts silent intervals, sends a request at each, and gives up when the count is over
    `keepalive_count_max`.
    """
    keepalive = KeepaliveConfig(interval=interval, max_missed=max_missed)
    options = (await prepare(config.model_copy(update={"keepalive": keepalive}))).options
    asked = options.keepalive_count_max
    assert asked == max_missed
    assert options.keepalive_interval * (asked + 1) == pytest.approx(interval * max_missed)


async def test_public_keys_are_offered_no_passwords_and_an_agent_only_if_asked(
    config: GatewayConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/run/somebody/agent")
    prepared = await prepare(config)
    options = prepared.options
    assert options.preferred_auth == ["publickey", "keyboard-interactive"]
    others = ("password_auth", "host_based_auth", "gss_auth", "gss_kex")
    assert not [name for name in others if getattr(options, name)]
    assert prepared.agent is None
    assert options.agent_path is None
    assert options.agent_forward_path is None


async def test_a_public_key_file_that_does_not_belong_to_the_key_is_ignored(config: GatewayConfig) -> None:
    """As with ssh(1): the key was replaced, but the old KEY.pub is still there."""
    (key,) = config.identity_files
    asyncssh.generate_private_key("ssh-ed25519").write_public_key(f"{key}.pub")
    found = (await prepare(config)).options.client_keys
    assert found is not None
    assert [pair.public_data for pair in found] == [asyncssh.read_private_key(key).public_data]


async def test_a_certificate_beside_a_key_is_used_and_one_of_another_key_is_an_error(
    config: GatewayConfig,
) -> None:
    (key,) = config.identity_files
    ca, beside = asyncssh.generate_private_key("ssh-ed25519"), Path(f"{key}-cert.pub")
    ca.generate_user_certificate(asyncssh.read_private_key(key), "ours").write_certificate(beside)
    found = (await prepare(config)).options.client_keys
    assert found is not None
    assert [pair.has_cert for pair in found] == [True, False]
    ca.generate_user_certificate(asyncssh.generate_private_key("ssh-ed25519"), "another's").write_certificate(
        beside
    )
    with pytest.raises(
        CredentialsUnusable, match=r"key-cert\.pub is not of the key beside it, .*/key$"
    ) as caught:
        await prepare(config)
    assert "ssh-keygen -s" in caught.value.hint
