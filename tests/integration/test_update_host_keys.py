"""When a server lists its host keys, kubemux learns the same keys as ssh(1) with UpdateHostKeys and the same
known_hosts.
"""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.ssh.conftest import config_for, settled, started
from tests.support import ssh_keys
from tests.support.sshd import Sshd, SshdFactory

pytestmark = pytest.mark.sshd


@dataclass
class Case:
    """Lines of known_hosts with placeholders for keys, and which of the server's other keys are learned."""

    known_hosts: str
    learned: str = ""
    by_ssh_alone: str = ""
    """Whether kubemux learns none of them."""
    alias: str = ""
    is_hashed: bool = False
    is_certified: bool = False


CASES = {
    "one of three": Case("[127.0.0.1]:PORT ED25519", "ECDSA RSA"),
    "two of three": Case("[127.0.0.1]:PORT ED25519\n[127.0.0.1]:PORT RSA", "ECDSA"),
    "another of three": Case("[127.0.0.1]:PORT RSA", "ED25519 ECDSA"),
    "all three": Case("[127.0.0.1]:PORT ED25519\n[127.0.0.1]:PORT ECDSA\n[127.0.0.1]:PORT RSA"),
    "hashed": Case("[127.0.0.1]:PORT ED25519", "ECDSA RSA", is_hashed=True),
    "two names": Case("[127.0.0.1]:PORT,elsewhere ED25519", "ECDSA RSA"),
    "three names": Case("[127.0.0.1]:PORT,elsewhere,other ED25519"),
    "a pattern": Case("[127.0.0.*]:PORT ED25519"),
    "a pattern for another key": Case("[127.0.0.1]:PORT ED25519\n[127.*]:PORT OTHER"),
    "an excluded name": Case("[127.0.0.1]:PORT,!other ED25519", by_ssh_alone="ECDSA RSA"),
    "without its port": Case("127.0.0.1 ED25519"),
    "one of its other keys is another server's": Case("[127.0.0.1]:PORT ED25519\nother RSA"),
    "the key that it shows is another server's": Case("[127.0.0.1]:PORT ED25519\nother ED25519"),
    "another server's key, which it does not list": Case(
        "[127.0.0.1]:PORT ED25519\nother OTHER", "ECDSA RSA"
    ),
    "another key is revoked": Case("[127.0.0.1]:PORT ED25519\n@revoked [127.0.0.1]:PORT OTHER"),
    "an authority for its name": Case("[127.0.0.1]:PORT ED25519\n@cert-authority [127.0.0.1]:PORT OTHER"),
    "an alias": Case("bastion ED25519", "ECDSA RSA", alias="bastion"),
    "a certificate": Case("@cert-authority [127.0.0.1]:PORT CA", is_certified=True),
    "a certificate, and its key": Case("[127.0.0.1]:PORT ED25519", "ECDSA RSA", is_certified=True),
}


class Scene:
    """Two sshds with three keys, one of which has a certificate."""

    def __init__(self, folder: Path, start: SshdFactory) -> None:
        self.folder = folder
        self.keys = {
            kind.upper(): ssh_keys.new_key(folder / kind, kind=kind) for kind in ("ed25519", "ecdsa", "rsa")
        }
        self.others = {name: ssh_keys.new_key(folder / name) for name in ("OTHER", "CA")}
        certificate = ssh_keys.sign(
            self.keys["ED25519"], ca=self.others["CA"], principals="127.0.0.1", host=True
        )
        config = {"HostKey": "\nHostKey ".join(map(str, self.keys.values())), "MaxStartups": "100"}
        self.plain = start(config=config)
        self.certified = start(config={**config, "HostCertificate": str(certificate)})

    def known_hosts(self, case: Case) -> tuple[Sshd, Path]:
        sshd = self.certified if case.is_certified else self.plain
        path = Path(tempfile.mkdtemp(dir=self.folder)) / "known_hosts"
        text = case.known_hosts.replace("PORT", str(sshd.port))
        for word, key in {**self.keys, **self.others}.items():
            text = text.replace(f" {word}", f" {ssh_keys.public(key)}")
        path.write_text(f"{text}\n")
        if case.is_hashed:
            ssh_keys.hash_hosts(path)
        return sshd, path

    def new(self, path: Path, before: str = "") -> set[str]:
        """The server's keys that are in the file and were not in it before."""
        text = path.read_text() if path.exists() else ""
        return {
            name
            for name, key in self.keys.items()
            if ssh_keys.public(key) in text and ssh_keys.public(key) not in before
        }

    def as_ssh(self, case: Case) -> set[str]:
        sshd, known_hosts = self.known_hosts(case)
        before = known_hosts.read_text()
        options = {
            "UserKnownHostsFile": known_hosts,
            "GlobalKnownHostsFile": "none",
            "StrictHostKeyChecking": "yes",
            "UpdateHostKeys": "yes",
            "BatchMode": "yes",
            "IdentityFile": sshd.identity,
            "KexAlgorithms": "curve25519-sha256",
            **({"HostKeyAlias": case.alias} if case.alias else {}),
        }
        words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        # ssh asks the server to prove the listed keys, and gets the answer before the command ends.
        command = ["ssh", "-F", "none", *words, "-p", str(sshd.port), f"{sshd.user}@{sshd.host}", "true"]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        return self.new(known_hosts, before)

    async def as_kubemux(self, case: Case) -> set[str]:
        sshd, known_hosts = self.known_hosts(case)
        before, learned = known_hosts.read_text(), known_hosts.with_name("learned")
        more: dict[str, object] = {}
        if case.alias:
            ssh_config = known_hosts.with_name("ssh_config")
            ssh_config.write_text(f"HostKeyAlias {case.alias}\n")
            more["ssh_config"] = str(ssh_config)
        files = {"known_hosts": [str(known_hosts)], "learned_host_keys": str(learned)}
        async with started(config_for(sshd, **files, **more)) as gateway:
            await gateway.until(lambda: gateway.links == 1)
            await settled(gateway)
        assert known_hosts.read_text() == before, "the operator's known_hosts does not change"
        return self.new(learned)


@pytest.fixture
def scene(sshd_factory: SshdFactory, tmp_path: Path) -> Scene:
    return Scene(tmp_path, sshd_factory)


async def test_kubemux_learns_the_same_keys_as_ssh(scene: Scene) -> None:
    at_once = asyncio.Semaphore(6)

    async def tried(case: Case) -> tuple[set[str], set[str]]:
        async with at_once:
            return await scene.as_kubemux(case), await asyncio.to_thread(scene.as_ssh, case)

    found = await asyncio.gather(*map(tried, CASES.values()))
    assert dict(zip(CASES, found, strict=True)) == {
        name: (set(case.learned.split()), set(f"{case.learned} {case.by_ssh_alone}".split()))
        for name, case in CASES.items()
    }
