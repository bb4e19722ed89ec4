"""Logging in to a real sshd with each kind of credential, and the messages when sshd accepts none."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from tests.integration.conftest import cluster, gateway
from tests.integration.running import PROBE, get, running, settled, wait_for_log, wait_up
from tests.ssh.conftest import config_for, dialled, failure
from tests.support import ssh_keys
from tests.support.https import Https
from tests.support.ports import free_port
from tests.support.processes import command
from tests.support.sshd import Sshd, SshdFactory
from tests.support.tls import Certificates

pytestmark = pytest.mark.sshd

PASSPHRASE = "correct horse battery"  # noqa: S105 - protects nothing
WRONG = "incorrect horse"


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Path]:
    """The socket of a real ssh-agent that holds no key yet."""
    path = tmp_path / "agent.sock"
    with subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        process.stdout.readline()  # the agent prints its socket's path when it listens
        try:
            yield path
        finally:
            process.terminate()


def add_to_agent(agent: Path, key: Path) -> None:
    subprocess.run(
        ["ssh-add", "-q", key],
        check=True,
        capture_output=True,
        timeout=60,
        env=os.environ | {"SSH_AUTH_SOCK": str(agent)},
    )


def secret(path: Path, text: str) -> str:
    path.touch(mode=0o600)
    path.write_text(f"{text}\n")
    return str(path)


async def test_an_agents_keys_that_identityfile_names_come_first(
    sshd_factory: SshdFactory, agent: Path, tmp_path: Path
) -> None:
    """As with ssh(1). In the agent's own order, sshd would close the connection before the
    seventh, good key.
    """
    sshd = sshd_factory(config={"MaxAuthTries": "2"})
    for number in range(6):
        add_to_agent(agent, sshd.new_identity(f"other{number}", authorize=False))
    add_to_agent(agent, sshd.identity)
    public = tmp_path / "named.pub"
    public.write_bytes(sshd.identity.with_suffix(".pub").read_bytes())
    ssh_config = tmp_path / "ssh_config"
    ssh_config.write_text(f"IdentityAgent {agent}\nIdentityFile {public}\n")
    config = config_for(sshd, identity_files=[], ssh_config=str(ssh_config), connect_timeout="60s")
    async with dialled(config):
        pass
    ssh_config.write_text(f"IdentityAgent {agent}\n")
    assert "takes no more in one login (MaxAuthTries)" in str(await failure(config))


async def test_each_kind_of_credential_logs_in_or_its_failure_is_explained(
    sshd: Sshd, agent: Path, tmp_path: Path, certificates: Certificates
) -> None:
    """Gateways with good and with bad keys in one daemon: the bad ones do not disturb the good ones."""
    locked = sshd.new_identity("locked", passphrase=PASSPHRASE)
    right, wrong = secret(tmp_path / "right", PASSPHRASE), secret(tmp_path / "wrong", WRONG)
    refused = [str(sshd.new_identity(f"refused{n}", authorize=False)) for n in range(3)]
    certified, _ = sshd.new_certificate("certified")
    moved, certificate = sshd.new_certificate("moved")
    certificate = certificate.rename(tmp_path / "elsewhere.pub")
    expired, _ = sshd.new_certificate("expired", validity="-2h:-1h")
    in_agent = sshd.new_identity("in_agent")
    add_to_agent(agent, in_agent)
    rsa = ssh_keys.new_key(tmp_path / "rsa", kind="rsa")
    junk = secret(tmp_path / "junk", "this is not a key")
    with (sshd.folder / "authorized_keys").open("a") as file:
        file.write(f"{ssh_keys.public(rsa)}\n")

    good = {
        "key": gateway(sshd),
        "rsa": gateway(sshd, identity_files=[str(rsa)]),
        "passphrase": gateway(sshd, identity_files=[str(locked)], passphrase_file=right),
        "certificate": gateway(sshd, identity_files=[str(certified)]),
        "certificate-elsewhere": gateway(
            sshd, identity_files=[str(moved)], certificate_files=[str(certificate)]
        ),
        "agent": gateway(sshd, identity_files=None, agent=True),
        "last-of-several": gateway(sshd, identity_files=[*refused, str(sshd.identity)]),
    }
    bad: dict[str, tuple[dict[str, object], str, list[str]]] = {
        "refused": ({"identity_files": refused}, "auth_failed", [f"refuses user {sshd.user}"]),
        "nobody": ({"user": "nobody"}, "auth_failed", ["refuses user nobody"]),
        "expired": (
            {"identity_files": [str(expired)]},
            "auth_failed",
            ["refuses user", "expired-cert.pub expired on 20"],
        ),
        "wrong-passphrase": (
            {"identity_files": [str(locked)], "passphrase_file": wrong},
            "credentials_unusable",
            [str(locked), wrong],
        ),
        "no-passphrase": (
            {"identity_files": [str(locked)]},
            "credentials_unusable",
            [str(locked), "is encrypted", "passphrase_file"],
        ),
        "junk": ({"identity_files": [junk]}, "credentials_unusable", [junk]),
        "junk-certificate": ({"certificate_files": [junk]}, "credentials_unusable", [junk, "certificate"]),
    }
    gateways = good | {name: gateway(sshd, **more) for name, (more, _, _) in bad.items()}
    alike = {"connections": 1, "connect_timeout": "60s"}
    gateways = {name: {**section, **alike} for name, section in gateways.items()}
    port = free_port()
    async with Https(certificates) as server:
        clusters = {"prod": cluster(port, server.endpoint, via="passphrase", ca=certificates.ca, probe=PROBE)}
        environment = {"SSH_AUTH_SOCK": str(agent)}
        async with running(
            tmp_path / "daemon", gateways=gateways, clusters=clusters, environment=environment
        ) as daemon:
            found = await settled(daemon)
            for name in good:
                assert found[name]["state"] == "up", found[name]
            expiry = "kubemux_gateway_credential_expiry_timestamp_seconds"
            for name in ("certificate", "certificate-elsewhere"):
                assert 3000 < daemon.metric(expiry, gateway=name, kind="user") - time.time() < 3700
            assert -3700 < daemon.metric(expiry, gateway="expired", kind="user") - time.time() < -3000
            assert f'{expiry}{{gateway="key"' not in daemon.get("/metrics")[1]
            for name, (_, reason, says) in bad.items():
                assert found[name]["reason"] == reason, found[name]
                for text in says:
                    assert text in found[name]["message"], found[name]
                assert found[name]["hint"]
                assert daemon.metric("kubemux_gateway_connects_total", gateway=name, result=reason) >= 1
                (warned,) = (
                    entry for entry in daemon.events("gateway dial failed") if entry["gateway"] == name
                )
                assert (warned["reason"], warned["message"], warned["hint"]) == (
                    reason,
                    found[name]["message"],
                    found[name]["hint"],
                )
                # sshd penalises an address whose logins fail again and again. What fails before sshd is asked
                # may be tried again soon.
                if reason == "auth_failed":
                    assert 5 < cast("float", warned["retry_in"]) <= 15
            await wait_up(daemon, "prod")
            assert await get(port, certificates) == 200
            public = daemon.log() + daemon.get("/status")[1] + daemon.get("/metrics")[1]
            argv = command(daemon.pid)
            assert not [word for word in (PASSPHRASE, WRONG) if word in public + argv]


async def test_a_missing_key_file_is_reported_and_used_again_when_it_is_back(
    sshd: Sshd, tmp_path: Path, certificates: Certificates
) -> None:
    port = free_port()
    async with Https(certificates) as server:
        clusters = {"prod": cluster(port, server.endpoint, ca=certificates.ca, probe=PROBE)}
        async with running(
            tmp_path / "daemon", gateways={"edge": gateway(sshd)}, clusters=clusters
        ) as daemon:
            await wait_up(daemon, "prod")
            away = sshd.identity.rename(tmp_path / "away")
            assert await get(port, certificates) == 200
            await asyncio.to_thread(sshd.restart)
            warned = await wait_for_log(daemon, "gateway dial failed", reason="credentials_unusable")
            assert str(sshd.identity) in str(warned["message"])
            away.rename(sshd.identity)
            await wait_for_log(daemon, "link up", link="edge/3")
            assert await get(port, certificates) == 200


async def test_a_key_that_is_replaced_is_used_after_the_next_reload(
    sshd: Sshd, tmp_path: Path, certificates: Certificates
) -> None:
    key = sshd.new_identity("rotated", authorize=False)
    Path(f"{key}.pub").unlink()  # noqa: ASYNC240 - nothing else runs yet
    port = free_port()
    async with Https(certificates) as server:
        clusters = {"prod": cluster(port, server.endpoint, ca=certificates.ca, probe=PROBE)}
        gateways = {"edge": gateway(sshd, identity_files=[str(key)])}
        async with running(tmp_path / "daemon", gateways=gateways, clusters=clusters) as daemon:
            await wait_for_log(daemon, "gateway dial failed", reason="auth_failed")
            key.write_bytes(sshd.identity.read_bytes())
            daemon.signal(signal.SIGHUP)
            await wait_up(daemon, "prod")
            assert await get(port, certificates) == 200
