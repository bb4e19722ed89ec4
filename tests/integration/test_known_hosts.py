"""Host keys of a real sshd: which are trusted, and the messages for those that are not."""

from __future__ import annotations

import asyncio
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from tests.integration.conftest import cluster, gateway
from tests.integration.running import PROBE, get, running, settled, told, wait_for_log, wait_up
from tests.support import ssh_keys
from tests.support.daemon import Sections
from tests.support.https import Https
from tests.support.ports import free_port
from tests.support.sshd import Sshd, SshdFactory
from tests.support.tls import Certificates

pytestmark = pytest.mark.sshd


def fingerprint(key: Path) -> str:
    """The fingerprint as ssh-keygen prints it: `SHA256:...`."""
    said = subprocess.run(
        ["ssh-keygen", "-lf", f"{key}.pub"], check=True, capture_output=True, text=True, timeout=10
    )
    return said.stdout.split()[1]


def line(sshd: Sshd, key: Path, *, marker: str = "") -> str:
    return f"{marker} [{sshd.host}]:{sshd.port} {ssh_keys.public(key)}\n".lstrip()


@dataclass
class Case:
    """A gateway to `sshd` with these known_hosts lines (None: those that its ssh_config names), and the
    expected result.
    """

    sshd: Sshd
    known_hosts: str | None
    result: str
    says: list[str] = field(default_factory=list)
    hashed: bool = False
    ssh_config: str = ""

    def section(self, folder: Path, name: str) -> Sections:
        more: dict[str, object] = {"known_hosts": None, "connections": 1, "connect_timeout": "60s"}
        if self.known_hosts is not None:
            path = folder / f"known_hosts-{name}"
            path.write_text(self.known_hosts)
            if self.hashed:
                ssh_keys.hash_hosts(path)
            more["known_hosts"] = [str(path)]
        if self.ssh_config:
            config = folder / f"ssh_config-{name}"
            config.write_text(self.ssh_config)
            more["ssh_config"] = str(config)
        return gateway(self.sshd, **more)


def with_host_certificate(
    sshd_factory: SshdFactory, folder: Path, *, ca: Path, principals: str, validity: str = "-1h:+1h"
) -> Sshd:
    folder.mkdir()
    key = ssh_keys.new_key(folder / "host_key")
    certificate = ssh_keys.sign(key, ca=ca, principals=principals, host=True, validity=validity)
    return sshd_factory(config={"HostKey": str(key), "HostCertificate": str(certificate)})


@pytest.fixture
def cases(sshd_factory: SshdFactory, tmp_path: Path) -> dict[str, Case]:
    other = ssh_keys.new_key(tmp_path / "other")
    ecdsa = ssh_keys.new_key(tmp_path / "ecdsa", kind="ecdsa")
    plain = sshd_factory(config={"MaxStartups": "100"})
    certified = sshd_factory(host_certificate=True)
    ca = certified.host_ca
    wrong_name = with_host_certificate(
        sshd_factory, tmp_path / "wrong_name", ca=ca, principals="bastion.example"
    )
    expired = with_host_certificate(
        sshd_factory, tmp_path / "expired", ca=ca, principals="127.0.0.1", validity="-2h:-1h"
    )
    shown = fingerprint(plain.host_key)
    off = (
        f"StrictHostKeyChecking no\nUserKnownHostsFile {tmp_path}/empty\nGlobalKnownHostsFile "
        f"{tmp_path}/missing\n"
    )
    (tmp_path / "empty").touch()
    return {
        "plain": Case(plain, line(plain, plain.host_key), "ok"),
        "hashed": Case(plain, line(plain, plain.host_key), "ok", hashed=True),
        "second-line": Case(plain, line(plain, ecdsa) + line(plain, plain.host_key), "ok"),
        "authority": Case(certified, line(certified, ca, marker="@cert-authority"), "ok"),
        "certified-and-plain": Case(certified, line(certified, certified.host_key), "ok"),
        "unknown": Case(plain, line(certified, plain.host_key), "host_key_unknown", [shown]),
        "unknown-though-certified": Case(
            certified, line(plain, plain.host_key), "host_key_unknown", [fingerprint(certified.host_key)]
        ),
        "changed": Case(plain, line(plain, other), "host_key_changed", [shown, fingerprint(other)]),
        "changed-kind": Case(
            plain, line(plain, ecdsa), "host_key_changed", [shown, fingerprint(ecdsa), "ssh-ed25519", "ecdsa"]
        ),
        "not-certified": Case(
            plain,
            line(plain, ca, marker="@cert-authority"),
            "host_key_unknown",
            [shown, fingerprint(ca), "no certificate"],
        ),
        "wrong-authority": Case(
            certified,
            line(certified, other, marker="@cert-authority"),
            "host_key_changed",
            [fingerprint(ca), fingerprint(other)],
        ),
        "wrong-name": Case(
            wrong_name,
            line(wrong_name, ca, marker="@cert-authority"),
            "host_key_changed",
            ["principal mismatch"],
        ),
        "expired": Case(
            expired, line(expired, ca, marker="@cert-authority"), "host_key_changed", ["Certificate expired"]
        ),
        "revoked": Case(
            plain,
            line(plain, plain.host_key) + line(plain, plain.host_key, marker="@revoked"),
            "host_key_revoked",
            [shown],
        ),
        "revoked-authority": Case(
            certified,
            line(certified, ca, marker="@cert-authority") + line(certified, ca, marker="@revoked"),
            "host_key_revoked",
            [fingerprint(ca)],
        ),
        "switched-off": Case(
            plain,
            None,
            "credentials_unusable",
            ["UserKnownHostsFile none"],
            ssh_config="UserKnownHostsFile none",
        ),
        "not-strict": Case(plain, None, "host_key_unknown", [shown], ssh_config=off),
        "switched-off-in-vain": Case(
            plain,
            line(plain, other),
            "host_key_changed",
            [shown, fingerprint(other)],
            ssh_config="UserKnownHostsFile none\nStrictHostKeyChecking no",
        ),
    }


async def test_every_kind_of_known_hosts_line_is_used_or_explained(
    cases: dict[str, Case], tmp_path: Path, certificates: Certificates
) -> None:
    """All cases in one daemon: gateways with a wrong line do not disturb those with a right one."""
    port = free_port()
    async with Https(certificates) as server:
        gateways = {name: case.section(tmp_path, name) for name, case in cases.items()}
        clusters = {"prod": cluster(port, server.endpoint, via="plain", ca=certificates.ca, probe=PROBE)}
        async with running(tmp_path / "daemon", gateways=gateways, clusters=clusters) as daemon:
            found = await settled(daemon)
            # The first of each gateway: later ones say another `retry_in`.
            warned = {entry["gateway"]: entry for entry in reversed(daemon.events("gateway dial failed"))}
            for name, case in cases.items():
                assert (
                    daemon.metric("kubemux_gateway_connects_total", gateway=name, result=case.result) >= 1
                ), (name, found[name])
                assert daemon.metric("kubemux_gateway_connected", gateway=name) == (case.result == "ok")
                assert found[name]["reason"] == ("" if case.result == "ok" else case.result)
                for text in case.says:
                    assert text in found[name]["message"], (name, found[name])
                assert (name in warned) == (case.result != "ok")
                if name in warned:
                    assert (warned[name]["reason"], warned[name]["message"]) == (
                        case.result,
                        found[name]["message"],
                    )
                    assert warned[name]["level"] == "warning"
                    assert warned[name]["hint"]
                    # The fault does not go away by itself, and sshd penalises addresses that fail again and
                    # again.
                    assert (
                        case.result == "credentials_unusable"
                        or 5 < cast("float", warned[name]["retry_in"]) <= 15
                    )
            await wait_up(daemon, "prod")
            assert await get(port, certificates) == 200


async def test_a_missing_known_hosts_is_reported_and_used_again_when_it_is_back(
    sshd: Sshd, tmp_path: Path, certificates: Certificates
) -> None:
    known_hosts = sshd.known_hosts()
    kept = known_hosts.read_text()
    port = free_port()
    async with Https(certificates) as server:
        clusters = {"prod": cluster(port, server.endpoint, ca=certificates.ca, probe=PROBE)}
        gateways = {"edge": gateway(sshd, known_hosts=[str(known_hosts)])}
        async with running(tmp_path / "daemon", gateways=gateways, clusters=clusters) as daemon:
            await wait_up(daemon, "prod")
            known_hosts.unlink()
            assert await get(port, certificates) == 200
            await asyncio.to_thread(sshd.restart)
            warned = await wait_for_log(daemon, "gateway dial failed", reason="credentials_unusable")
            assert str(known_hosts) in str(warned["message"])
            # The loss of the second link may be noticed after the first failed dial.
            await asyncio.to_thread(
                daemon.wait_for,
                "its reason",
                lambda: told(daemon)["edge"]["reason"] == "credentials_unusable",
            )
            known_hosts.write_text(kept)
            await wait_for_log(daemon, "link up", link="edge/3")
            assert await get(port, certificates) == 200
