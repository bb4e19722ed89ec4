"""With the same ssh_config and known_hosts, kubemux accepts a server's host key exactly when ssh(1) accepts
it.
"""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from proxy.config.model import GatewayConfig
from proxy.errors import LinkError
from proxy.openssh.known_hosts import canonical
from tests.ssh.conftest import config_for, dialled
from tests.support import ssh_keys
from tests.support.elsewhere import FarSshd
from tests.support.sshd import Sshd, SshdFactory


@dataclass
class Case:
    """Lines of known_hosts and of ssh_config, with placeholders for keys, and the reason of kubemux's failure
    (empty if it accepts the server).
    """

    known_hosts: str
    reason: str = ""
    host: str = "localhost"
    config: str = ""
    is_hashed: bool = False
    server: str = "plain"
    """The name of a server of `Scene`."""
    is_stricter: bool = False
    """Whether kubemux refuses what ssh(1) accepts."""


CROWDED = {"MaxStartups": "100", "LoginGraceTime": "60"}
"""Enough slots that sshd drops no connection, because several cases run at a time."""

UNKNOWN, CHANGED, REVOKED = "host_key_unknown", "host_key_changed", "host_key_revoked"

CASES = {
    "by name": Case("[localhost]:PORT KEY"),
    "by name, in capitals": Case("[LocalHost]:PORT KEY", host="LOCALHOST"),
    "hashed": Case("[localhost]:PORT KEY", host="LOCALHOST", is_hashed=True),
    "by name, any port": Case("localhost KEY"),
    "a pattern": Case("[local*]:* KEY"),
    "a pattern that excludes it": Case("[*]:*,![localhost]:PORT KEY", UNKNOWN),
    "by its address alone": Case("[127.0.0.1]:PORT KEY", UNKNOWN),
    "by its address, any port": Case("127.0.0.1 KEY", UNKNOWN),
    "by its address, hashed": Case("[127.0.0.1]:PORT KEY", UNKNOWN, is_hashed=True),
    "another key by name, its own by address": Case("[localhost]:PORT OTHER\n[127.0.0.1]:PORT KEY", CHANGED),
    "revoked under its address": Case("[localhost]:PORT KEY\n@revoked [127.0.0.1]:PORT KEY"),
    "its authority by address": Case(
        "@cert-authority 127.0.0.1,[127.0.0.1]:PORT CA", UNKNOWN, server="certified"
    ),
    "an address": Case("[127.0.0.1]:PORT KEY", host="127.0.0.1"),
    "an address, written otherwise": Case("[127.0.0.1]:PORT KEY", host="127.1"),
    "an address, written otherwise in known_hosts": Case("[127.1]:PORT KEY", UNKNOWN, host="127.0.0.1"),
    "another port": Case("[localhost]:1 KEY", UNKNOWN),
    "any port, changed": Case("localhost OTHER", CHANGED),
    "another key with the port, the right one without it": Case(
        "[localhost]:PORT OTHER\nlocalhost KEY", CHANGED
    ),
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
    "a link to the null device": Case("[localhost]:PORT KEY", config="RevokedHostKeys FOLDER/null"),
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
    # The certificate of the server `certified` is for 127.0.0.1.
    "authority": Case("@cert-authority localhost,127.0.0.1 CA", CHANGED, server="certified"),
    "authority of an address": Case("@cert-authority 127.0.0.1 CA", host="127.0.0.1", server="certified"),
    "authority of an alias": Case(
        "@cert-authority * CA", config="HostKeyAlias 127.0.0.1", server="certified"
    ),
    "authority for other names, and the key": Case(
        "@cert-authority * CA\n[localhost]:PORT KEY", server="certified"
    ),
    "authority in a revocation list": Case(
        "@cert-authority * CA",
        REVOKED,
        host="127.0.0.1",
        config="RevokedHostKeys FOLDER/ca.krl",
        server="certified",
    ),
    "certificate in a revocation list": Case(
        "@cert-authority * CA",
        REVOKED,
        host="127.0.0.1",
        config="RevokedHostKeys FOLDER/id.krl",
        server="certified",
    ),
    "lines that nobody can read": Case(
        "[localhost]:PORT ssh-ed25519 AAAA\nnonsense\n@what [localhost]:PORT KEY\n[localhost]:PORT KEY"
    ),
    "lines that nobody can read alone": Case("[localhost]:PORT ssh-ed25519 AAAA\nnonsense", UNKNOWN),
    "no Latin letter": Case("# caf\xe9 \xff\n[localhost]:PORT KEY"),
    "the last of many names": Case("[a]:22,b,[localhost]:1,*.c,[localhost]:PORT KEY"),
    "many names, and it is excepted": Case("[a]:22,[local*]:PORT,![localhost]:PORT KEY", UNKNOWN),
    "many names, excepted without a port": Case("[local*]:PORT,!localhost KEY"),
    "bracketed without a port": Case("[localhost] KEY", UNKNOWN),
    "with the standard port": Case("[localhost]:22,localhost:PORT KEY", UNKNOWN),
    "a port in the pattern": Case("[localhost]:?* KEY"),
    "banned without a port": Case("localhost KEY\n@revoked localhost KEY", REVOKED),
    "banned without a port, known with it": Case(
        "[localhost]:PORT KEY\n@revoked localhost KEY", REVOKED, is_stricter=True
    ),
    "its ban, and no key": Case("@revoked [localhost]:PORT KEY", REVOKED),
    "any certificate": Case("@cert-authority [local*]:PORT CA", server="for_any"),
    "authority without a port": Case("@cert-authority localhost CA", server="for_any"),
    "authority, with the port another": Case(
        "@cert-authority [localhost]:PORT OTHER\n@cert-authority localhost CA", server="for_any"
    ),
    "authority, with the port another's key": Case(
        "[localhost]:PORT OTHER\n@cert-authority localhost CA", server="for_any"
    ),
    "authority, excepted": Case(
        "@cert-authority *,![localhost]:PORT,!localhost CA", UNKNOWN, server="for_any"
    ),
    "authority of another": Case("@cert-authority elsewhere CA", UNKNOWN, server="for_any"),
    "authority, hashed": Case("@cert-authority [localhost]:PORT CA", is_hashed=True, server="for_any"),
    "authority as a plain key": Case("[localhost]:PORT CA", CHANGED, server="for_any"),
    "the key as an authority": Case("@cert-authority [localhost]:PORT KEY", UNKNOWN),
    "authority, banned": Case(
        "@cert-authority * CA\n@revoked [localhost]:PORT CA", REVOKED, server="for_any"
    ),
    "authority banned elsewhere": Case("@cert-authority * CA\n@revoked other CA", server="for_any"),
    "authority banned, and the key": Case(
        "[localhost]:PORT KEY\n@cert-authority * CA\n@revoked * CA", REVOKED, server="for_any"
    ),
    "certified key banned": Case("@cert-authority * CA\n@revoked * KEY", REVOKED, server="for_any"),
    "certified key listed": Case(
        "@cert-authority * CA", REVOKED, config="RevokedHostKeys FOLDER/for_any.pub", server="for_any"
    ),
    "authority listed": Case(
        "@cert-authority * CA", REVOKED, config="RevokedHostKeys FOLDER/ca_ed25519.pub", server="for_any"
    ),
    "principal with a wildcard": Case("@cert-authority * CA", CHANGED, server="for_a_pattern"),
    "principal with another wildcard": Case(
        "@cert-authority * CA", CHANGED, host="127.0.0.1", server="for_a_pattern"
    ),
    "principal with a port": Case("@cert-authority * CA", CHANGED, server="for_a_port"),
    "principal in capitals": Case("@cert-authority * CA", CHANGED, server="for_capitals"),
    "principal in capitals as it is": Case(
        "@cert-authority * CA", CHANGED, host="LOCALHOST", server="for_capitals"
    ),
    "principal is the alias": Case(
        "@cert-authority * CA", config="HostKeyAlias localhost", host="127.0.0.1", server="for_localhost"
    ),
    "principal is not the alias": Case(
        "@cert-authority * CA", CHANGED, config="HostKeyAlias bastion", server="for_localhost"
    ),
    "principal is the alias in capitals": Case(
        "@cert-authority * CA", config="HostKeyAlias LOCALHOST", server="for_localhost"
    ),
    "expired": Case("@cert-authority * CA", CHANGED, server="expired"),
    "expired, and the key": Case("@cert-authority * CA\n[localhost]:PORT KEY", server="expired"),
    "expired, and another's key": Case(
        "@cert-authority * CA\n[localhost]:PORT OTHER", CHANGED, server="expired"
    ),
    "not yet": Case("@cert-authority * CA", CHANGED, server="not_yet"),
    "a user's": Case("@cert-authority * CA", CHANGED, server="a_users"),
    "a user's, and the key": Case("@cert-authority * CA\n[localhost]:PORT KEY", server="a_users"),
    "with a critical option": Case("@cert-authority * CA", CHANGED, server="critical"),
    "with a critical option, and the key": Case(
        "@cert-authority * CA\n[localhost]:PORT KEY", CHANGED, server="critical", is_stricter=True
    ),
    "with an extension": Case("@cert-authority * CA", server="extended"),
    "RSA by RSA": Case("@cert-authority * CA", server="rsa"),
    "RSA by RSA with SHA-1": Case("@cert-authority * CA", CHANGED, server="rsa_sha1"),
    "RSA by RSA with SHA-1, and the key": Case(
        "@cert-authority * CA\n[localhost]:PORT KEY", server="rsa_sha1"
    ),
    "ECDSA by ECDSA": Case("@cert-authority * CA", server="ecdsa"),
    "an authority that signed another kind": Case(
        "@cert-authority * CA\n[localhost]:PORT OTHER", server="rsa"
    ),
}


@dataclass
class Certified:
    """A host key and its certificate, made by ssh-keygen."""

    principals: str = ""
    validity: str = "-1h:+1h"
    kind: str = "ed25519"
    is_for_users: bool = False
    more: Sequence[str] = ()
    """Options of ssh-keygen."""


CERTIFIED = {
    "certified": Certified("127.0.0.1"),
    "for_any": Certified(),
    "for_localhost": Certified("elsewhere,localhost"),
    "for_a_pattern": Certified("local*"),
    "for_a_port": Certified("[localhost]:*,localhost:*"),
    "for_capitals": Certified("LOCALHOST"),
    "expired": Certified("localhost", validity="-2h:-1h"),
    "not_yet": Certified("localhost", validity="+1h:+2h"),
    "a_users": Certified("localhost", is_for_users=True),
    "critical": Certified("localhost", more=["-O", "critical:color@example.com=red"]),
    "extended": Certified("localhost", more=["-O", "extension:color@example.com=red"]),
    "rsa": Certified("localhost", kind="rsa"),
    "rsa_sha1": Certified("localhost", kind="rsa", more=["-t", "ssh-rsa"]),
    "ecdsa": Certified("localhost", kind="ecdsa"),
}


class Server(NamedTuple):
    """One sshd, its host key, and the CA that may have signed it."""

    sshd: Sshd
    key: Path
    ca: Path


class Scene:
    """The servers and files that cases refer to."""

    def __init__(self, folder: Path, start: SshdFactory) -> None:
        self.folder = folder
        self.other = ssh_keys.new_key(folder / "other")
        self._authorities = {
            kind: ssh_keys.new_key(folder / f"ca_{kind}", kind=kind) for kind in ("ed25519", "rsa", "ecdsa")
        }
        plain = start(config=CROWDED)
        self.servers = {"plain": Server(plain, plain.host_key, self.other)}
        with ThreadPoolExecutor(4) as threads:  # each waits for ssh-keygen and sshd
            started = threads.map(partial(self._certified, start), CERTIFIED, CERTIFIED.values())
            self.servers |= dict(zip(CERTIFIED, started, strict=True))
        key = f"{plain.host_key}.pub"
        (folder / "listed").write_text(
            f"# these\n\n{ssh_keys.public(self.other)}\n{ssh_keys.public(plain.host_key)}\n"
        )
        (folder / "nonsense").write_text("nonsense\n")
        (folder / "null").symlink_to("/dev/null")
        (folder / "empty").touch()
        (folder / "comments").write_text("# none\n\n")
        (folder / "folder").mkdir()
        self.krl("krl", key)
        self.krl("other.krl", f"{self.other}.pub")
        self.krl("ca.krl", f"{folder}/ca_ed25519.pub")
        (folder / "id").write_text("id: certified\n")
        self.krl("id.krl", "-s", f"{folder}/ca_ed25519.pub", str(folder / "id"))
        (folder / "cut").write_bytes((folder / "krl").read_bytes()[:-7])

    def _certified(self, start: SshdFactory, name: str, certified: Certified) -> Server:
        ca = self._authorities[certified.kind]
        key = ssh_keys.new_key(self.folder / name, kind=certified.kind)
        certificate = ssh_keys.sign(
            key,
            ca=ca,
            principals=certified.principals,
            host=not certified.is_for_users,
            validity=certified.validity,
            more=certified.more,
        )
        sshd = start(config={**CROWDED, "HostKey": str(key), "HostCertificate": str(certificate)})
        return Server(sshd, key, ca)

    def krl(self, name: str, *words: str) -> None:
        options = words[:-1]
        command = ["ssh-keygen", "-q", "-k", "-f", str(self.folder / name), *options, words[-1]]
        subprocess.run(command, check=True, capture_output=True, timeout=60)

    def config(self, case: Case) -> Path:
        """An ssh_config for `edge`, in a folder of its own."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        sshd, key, ca = self.servers[case.server]
        words = {
            "FOLDER": str(self.folder),
            "PORT": str(sshd.port),
            "OTHER": ssh_keys.public(self.other),
            "KEY": ssh_keys.public(key),
            "CA": ssh_keys.public(ca),
        }

        def filled(text: str) -> str:
            for word, value in words.items():
                text = text.replace(f" {word}", f" {value}").replace(f":{word}", f":{value}")
            return text

        known_hosts, path = folder / "known_hosts", folder / "ssh_config"
        known_hosts.write_text(filled(case.known_hosts) + "\n", encoding="latin-1")
        if case.is_hashed:
            hash_all(known_hosts)
        path.write_text(f"""Host edge
  HostName {case.host}
  Port {sshd.port}
  User {sshd.user}
  IdentityFile {sshd.identity}
  IdentitiesOnly yes
  UserKnownHostsFile {known_hosts}
  GlobalKnownHostsFile none
  AddressFamily inet
  StrictHostKeyChecking yes
  BatchMode yes
  KexAlgorithms curve25519-sha256
  {filled(" " + case.config)}
""")
        return path


def hash_all(path: Path) -> None:
    """Hash all host names, also in lines with a marker, which ssh-keygen does not change."""
    marks = [line.split()[0] if line.startswith("@") else "" for line in path.read_text().splitlines()]
    lines = path.read_text().splitlines()
    path.write_text(
        "".join(f"{line.removeprefix(mark).lstrip()}\n" for mark, line in zip(marks, lines, strict=True))
    )
    ssh_keys.hash_hosts(path)
    lines = path.read_text().splitlines()
    path.write_text("".join(f"{mark} {line}\n".lstrip() for mark, line in zip(marks, lines, strict=True)))


def ssh(path: Path) -> bool:
    """Whether ssh(1) accepts the server's host key."""
    done = subprocess.run(["ssh", "-F", path, "edge", "true"], capture_output=True, timeout=60, check=False)
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
async def test_kubemux_trusts_the_same_servers_as_ssh(scene: Scene) -> None:
    """Several cases run at a time, because each mostly waits for ssh, sshd and ssh-keygen."""
    at_once = asyncio.Semaphore(8)

    async def tried(case: Case) -> tuple[str, bool]:
        async with at_once:
            path = await asyncio.to_thread(scene.config, case)
            ours = await reason(GatewayConfig(host="edge", ssh_config=path, connect_timeout=60.0))
            return ours, await asyncio.to_thread(ssh, path)

    found = await asyncio.gather(*map(tried, CASES.values()))
    assert dict(zip(CASES, found, strict=True)) == {
        name: (case.reason, case.is_stricter or not case.reason) for name, case in CASES.items()
    }


@pytest.mark.network
@pytest.mark.sshd
async def test_a_link_local_address_keeps_its_interface(tmp_path: Path) -> None:
    """A link-local address needs its zone: `fe80::8%w0` is another machine than `fe80::8%w1`."""
    with FarSshd(tmp_path / "sshd") as sshd:
        address = sshd.listen_on_link_local()
        assert canonical(address.upper().replace(sshd.cable.upper(), sshd.cable)) == address
        known_hosts = tmp_path / "known_hosts"
        for name, expected in ((address, ""), (address.partition("%")[0], "host_key_unknown")):
            known_hosts.write_text(f"[{name}]:{sshd.port} {ssh_keys.public(sshd.host_key)}\n")
            config = config_for(sshd, host=address, known_hosts=[str(known_hosts)], connect_timeout="60s")
            assert await reason(config) == expected
