"""Whom kubemux takes for a gateway, next to ssh(1) with the same ssh_config and known_hosts: no more, and no
less.
"""

from __future__ import annotations

import asyncio
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxy.config.model import GatewayConfig
from proxy.errors import LinkError
from proxy.openssh.known_hosts import canonical
from tests.ssh.conftest import config_for, dialled
from tests.support import ssh_keys
from tests.support.elsewhere import FarSshd
from tests.support.sshd import SshdFactory


@dataclass
class Case:
    """Lines of known_hosts and of ssh_config, with words for keys, and what kubemux says: nothing if it is
    let in.
    """

    known_hosts: str
    reason: str = ""
    host: str = "localhost"
    config: str = ""
    is_hashed: bool = False
    certified: bool = False


UNKNOWN, CHANGED, REVOKED = "host_key_unknown", "host_key_changed", "host_key_revoked"

CASES = {
    "by name": Case("[localhost]:PORT KEY"),
    "by name, in capitals": Case("[LocalHost]:PORT KEY", host="LOCALHOST"),
    "hashed": Case("[localhost]:PORT KEY", host="LOCALHOST", is_hashed=True),
    "by name, any port": Case("localhost KEY"),
    "a pattern": Case("[local*]:* KEY"),
    "all but it": Case("[*]:*,![localhost]:PORT KEY", UNKNOWN),
    "by its address alone": Case("[127.0.0.1]:PORT KEY", UNKNOWN),
    "by its address, any port": Case("127.0.0.1 KEY", UNKNOWN),
    "by its address, hashed": Case("[127.0.0.1]:PORT KEY", UNKNOWN, is_hashed=True),
    "another's address": Case("[localhost]:PORT OTHER\n[127.0.0.1]:PORT KEY", CHANGED),
    "another's address and a ban": Case("[localhost]:PORT KEY\n@revoked [127.0.0.1]:PORT KEY"),
    "its authority by address": Case(
        "@cert-authority 127.0.0.1,[127.0.0.1]:PORT CA", UNKNOWN, certified=True
    ),
    "an address": Case("[127.0.0.1]:PORT KEY", host="127.0.0.1"),
    "an address, written otherwise": Case("[127.0.0.1]:PORT KEY", host="127.1"),
    "an address, written otherwise in known_hosts": Case("[127.1]:PORT KEY", UNKNOWN, host="127.0.0.1"),
    "another port": Case("[localhost]:1 KEY", UNKNOWN),
    "any port, changed": Case("localhost OTHER", CHANGED),
    "with the port another, without it right": Case("[localhost]:PORT OTHER\nlocalhost KEY", CHANGED),
    "alias": Case("bastion KEY", config="HostKeyAlias Bastion"),
    "alias, in capitals": Case("BASTION KEY", config="HostKeyAlias bastion", is_hashed=False),
    "alias, and a line for the name": Case(
        "[localhost]:PORT,localhost KEY", UNKNOWN, config="HostKeyAlias bastion"
    ),
    "alias with a port": Case("[bastion]:PORT KEY", UNKNOWN, config="HostKeyAlias bastion"),
    "revoked": Case("[localhost]:PORT KEY\n@revoked * KEY", REVOKED),
    "revoked, hashed": Case("[localhost]:PORT KEY\n@revoked [localhost]:PORT KEY", REVOKED, is_hashed=True),
    "another is revoked": Case("[localhost]:PORT KEY\n@revoked * OTHER"),
    "revoked under another name": Case("[localhost]:PORT KEY\n@revoked other KEY"),
    "revoked in capitals": Case("[localhost]:PORT KEY\n@REVOKED * KEY"),
    "listed": Case("[localhost]:PORT KEY", REVOKED, config="RevokedHostKeys FOLDER/listed"),
    "another is listed": Case("[localhost]:PORT KEY", config="RevokedHostKeys FOLDER/other.pub"),
    "in a revocation list": Case("[localhost]:PORT KEY", REVOKED, config="RevokedHostKeys FOLDER/krl"),
    "another in a revocation list": Case("[localhost]:PORT KEY", config="RevokedHostKeys FOLDER/other.krl"),
    "no list": Case("[localhost]:PORT KEY", "credentials_unusable", config="RevokedHostKeys FOLDER/missing"),
    "no list by name": Case("[localhost]:PORT KEY", config="RevokedHostKeys none"),
    "the null device as list": Case("[localhost]:PORT KEY", config="RevokedHostKeys /dev/null"),
    "a way to the null device": Case("[localhost]:PORT KEY", config="RevokedHostKeys FOLDER/null"),
    "an empty list": Case("[localhost]:PORT KEY", config="RevokedHostKeys FOLDER/empty"),
    "a list of comments": Case("[localhost]:PORT KEY", config="RevokedHostKeys FOLDER/comments"),
    "a folder as list": Case(
        "[localhost]:PORT KEY", "credentials_unusable", config="RevokedHostKeys FOLDER/folder"
    ),
    "a list of nonsense": Case(
        "[localhost]:PORT KEY", "credentials_unusable", config="RevokedHostKeys FOLDER/nonsense"
    ),
    "a revocation list that is cut off": Case(
        "[localhost]:PORT KEY", "credentials_unusable", config="RevokedHostKeys FOLDER/cut"
    ),
    "authority": Case(
        "@cert-authority localhost,127.0.0.1 CA", CHANGED, certified=True
    ),  # it is for 127.0.0.1
    "authority of an address": Case("@cert-authority 127.0.0.1 CA", host="127.0.0.1", certified=True),
    "authority of an alias": Case("@cert-authority * CA", config="HostKeyAlias 127.0.0.1", certified=True),
    "authority, not for it, and the key": Case("@cert-authority * CA\n[localhost]:PORT KEY", certified=True),
    "authority in a revocation list": Case(
        "@cert-authority * CA",
        REVOKED,
        host="127.0.0.1",
        config="RevokedHostKeys FOLDER/ca.krl",
        certified=True,
    ),
    "certificate in a revocation list": Case(
        "@cert-authority * CA",
        REVOKED,
        host="127.0.0.1",
        config="RevokedHostKeys FOLDER/id.krl",
        certified=True,
    ),
    "lines that nobody can read": Case(
        "[localhost]:PORT ssh-ed25519 AAAA\nnonsense\n@what [localhost]:PORT KEY\n[localhost]:PORT KEY"
    ),
    "lines that nobody can read alone": Case("[localhost]:PORT ssh-ed25519 AAAA\nnonsense", UNKNOWN),
    "no Latin letter": Case("# caf\xe9 \xff\n[localhost]:PORT KEY"),
}


class Scene:
    """Two sshds, one with a certificate, and the files that cases name."""

    def __init__(self, folder: Path, start: SshdFactory) -> None:
        self.folder = folder
        self.plain, self.certified = start(), start(host_certificate=True)
        self.other = ssh_keys.new_key(folder / "other")
        key = f"{self.plain.host_key}.pub"
        (folder / "listed").write_text(
            f"# these\n\n{ssh_keys.public(self.other)}\n{ssh_keys.public(self.plain.host_key)}\n"
        )
        (folder / "nonsense").write_text("nonsense\n")
        (folder / "null").symlink_to("/dev/null")
        (folder / "empty").touch()
        (folder / "comments").write_text("# none\n\n")
        (folder / "folder").mkdir()
        self.krl("krl", key)
        self.krl("other.krl", f"{self.other}.pub")
        self.krl("ca.krl", f"{self.certified.host_ca}.pub")
        (folder / "id").write_text("id: host_key\n")
        self.krl("id.krl", "-s", f"{self.certified.host_ca}.pub", str(folder / "id"))
        (folder / "cut").write_bytes((folder / "krl").read_bytes()[:-7])

    def krl(self, name: str, *words: str) -> None:
        options = words[:-1]
        command = ["ssh-keygen", "-q", "-k", "-f", str(self.folder / name), *options, words[-1]]
        subprocess.run(command, check=True, capture_output=True, timeout=10)

    def config(self, case: Case) -> Path:
        sshd = self.certified if case.certified else self.plain
        words = {
            "FOLDER": str(self.folder),
            "PORT": str(sshd.port),
            "OTHER": ssh_keys.public(self.other),
            "KEY": ssh_keys.public(sshd.host_key),
            "CA": ssh_keys.public(sshd.host_ca),
        }

        def filled(text: str) -> str:
            for word, value in words.items():
                text = text.replace(f" {word}", f" {value}").replace(f":{word}", f":{value}")
            return text

        known_hosts, path = self.folder / "known_hosts", self.folder / "ssh_config"
        known_hosts.write_text(filled(case.known_hosts) + "\n", encoding="latin-1")
        if case.is_hashed:
            hash_all(known_hosts)
        path.write_text(
            f"Host edge\n  HostName {case.host}\n  Port {sshd.port}\n  User {sshd.user}\n  IdentityFile "
            f"{sshd.identity}\n"
            f"  IdentitiesOnly yes\n  UserKnownHostsFile {known_hosts}\n  GlobalKnownHostsFile none\n  "
            "AddressFamily inet\n"
            f"  StrictHostKeyChecking yes\n  BatchMode yes\n  {filled(' ' + case.config)}\n"
        )
        return path


def hash_all(path: Path) -> None:
    """Marked lines, too, which ssh-keygen leaves as they are."""
    marks = [line.split()[0] if line.startswith("@") else "" for line in path.read_text().splitlines()]
    lines = path.read_text().splitlines()
    path.write_text(
        "".join(f"{line.removeprefix(mark).lstrip()}\n" for mark, line in zip(marks, lines, strict=True))
    )
    ssh_keys.hash_hosts(path)
    lines = path.read_text().splitlines()
    path.write_text("".join(f"{mark} {line}\n".lstrip() for mark, line in zip(marks, lines, strict=True)))


def ssh(path: Path) -> bool:
    """Whether ssh(1) takes the server for the one it is."""
    done = subprocess.run(["ssh", "-F", path, "edge", "true"], capture_output=True, timeout=20, check=False)
    return done.returncode == 0


@pytest.fixture
def scene(sshd_factory: SshdFactory, tmp_path: Path) -> Scene:
    return Scene(tmp_path, sshd_factory)


async def reason(config: GatewayConfig) -> str:
    try:
        async with dialled(config):
            return ""
    except LinkError as exc:
        return exc.reason if exc.hint else "no hint"


@pytest.mark.sshd
async def test_whom_ssh_trusts(scene: Scene) -> None:
    found, expected = {}, {}
    for name, case in CASES.items():
        path = scene.config(case)
        found[name] = (
            await reason(GatewayConfig(host="edge", ssh_config=path)),
            await asyncio.to_thread(ssh, path),
        )
        expected[name] = case.reason, not case.reason
    assert found == expected


@pytest.mark.network
@pytest.mark.sshd
async def test_a_link_local_address_keeps_its_interface(tmp_path: Path) -> None:
    """It means nothing without: `fe80::8%w0` is another machine than `fe80::8%w1`."""
    with FarSshd(tmp_path / "sshd") as sshd:
        address = sshd.listen_on_link_local()
        assert canonical(address.upper().replace(sshd.cable.upper(), sshd.cable)) == address
        known_hosts = tmp_path / "known_hosts"
        for name, expected in ((address, ""), (address.partition("%")[0], "host_key_unknown")):
            known_hosts.write_text(f"[{name}]:{sshd.port} {ssh_keys.public(sshd.host_key)}\n")
            config = config_for(sshd, host=address, known_hosts=[str(known_hosts)])
            assert await reason(config) == expected
