"""The restricted account of the docs, word for word, on a real sshd: kubemux works with it, and it permits
nothing else.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.integration.conftest import cluster, gateway
from tests.integration.running import get, running, wait_up
from tests.support import ssh_keys
from tests.support.daemon import ROOT
from tests.support.https import Https
from tests.support.ports import free_port
from tests.support.sshd import Sshd, SshdFactory
from tests.support.tls import Certificates

pytestmark = pytest.mark.sshd

HEADING = "A least-privilege account on the gateway"
PATIENT = {"interval": "200ms", "timeout": "30s"}
"""`kubemux probe` waits this long for an answer."""


def from_the_page(*, servers: Mapping[str, str], user: str, key: str) -> list[str]:
    """The authorized_keys line and the sshd_config lines of that section, with the test's own servers, user
    and key in place of the page's.
    """
    pages = [text for path in (ROOT / "docs").rglob("*.md") if f"# {HEADING}\n" in (text := path.read_text())]
    assert len(pages) == 1, f"one page of docs has {HEADING!r}"
    section = pages[0].partition(f"# {HEADING}\n")[2].partition("\n## ")[0]
    line, match = (block.partition("\n")[2] for block in section.split("```")[1::2])
    for theirs, ours in servers.items():
        assert line.count(theirs) == match.count(theirs) == 1
        line, match = line.replace(theirs, ours), match.replace(theirs, ours)
    assert "Match User tunnel\n" in match
    assert line.count("ssh-ed25519 AAAA… kubemux@bastion\n") == 1
    return [
        line.replace("ssh-ed25519 AAAA… kubemux@bastion", key),
        match.replace("Match User tunnel", f"Match User {user}"),
    ]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that an account other than root's can read."""
    with tempfile.TemporaryDirectory(prefix="kubemux-test-") as path:
        Path(path).chmod(0o755)
        yield Path(path)


def limited(sshd_factory: SshdFactory, folder: Path, way: str, servers: Mapping[str, str]) -> Sshd:
    """A gateway whose account is limited by one of the two texts."""
    keys, included = folder / "authorized_keys", folder / "match"
    identity = ssh_keys.new_key(folder / "identity")
    plain = ssh_keys.public(identity)
    user = "nobody" if os.geteuid() == 0 else getpass.getuser()
    line, match = from_the_page(servers=servers, user=user, key=plain)
    keys.write_text(line if way == "authorized_keys" else f"{plain}\n")
    included.write_text(match if way == "sshd_config" else "")
    sshd = sshd_factory(config={"AuthorizedKeysFile": str(keys), "Include": str(included)})
    sshd.user, sshd.identity = user, identity
    return sshd


def ssh(sshd: Sshd, *words: str) -> subprocess.CompletedProcess[str]:
    """Run ssh(1) with the account."""
    options = ["-F", "none", "-o", f"UserKnownHostsFile={sshd.known_hosts()}", "-o", "BatchMode=yes"]
    command = ["ssh", *options, "-i", str(sshd.identity), "-p", str(sshd.port), *words]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL
    )


async def kubemux(*words: str | Path) -> subprocess.CompletedProcess[str]:
    def run() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "proxy", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    return await asyncio.to_thread(run)


@pytest.mark.parametrize("way", ["authorized_keys", "sshd_config"])
async def test_the_account_has_exactly_the_needed_permissions(
    sshd_factory: SshdFactory, folder: Path, tmp_path: Path, certificates: Certificates, way: str
) -> None:
    async with Https(certificates) as one, Https(certificates) as two, Https(certificates) as other:
        servers = {"10.0.0.10:6443": str(one.endpoint), "10.0.0.11:6443": str(two.endpoint)}
        sshd = await asyncio.to_thread(limited, sshd_factory, folder, way, servers)
        port = free_port()
        clusters = {
            "prod": cluster(port, one.endpoint, two.endpoint, probe=PATIENT, ca=certificates.ca),
            "other": cluster(free_port(), other.endpoint, probe=PATIENT, ca=certificates.ca),
        }
        async with running(
            tmp_path / "daemon", gateways={"edge": gateway(sshd)}, clusters=clusters
        ) as daemon:
            await wait_up(daemon, "prod")
            assert await get(port, certificates) == 200
            probed = await kubemux("probe", "prod", "--config", daemon.config)
            assert (probed.returncode, probed.stderr) == (0, "")
            assert probed.stdout.endswith("alive: ok\n")
            await one.refuse()
            assert await get(port, certificates) == 200, "both servers of the cluster are permitted"

            refused = await kubemux("probe", "other", "--config", daemon.config)
            assert refused.returncode == 1
            assert refused.stdout.endswith("down: channel_prohibited\n")
            assert f"does not allow forwarding to {other.endpoint}" in refused.stdout
            assert "permitopen= in authorized_keys" in refused.stdout
            assert other.requests == []

        at = f"{sshd.user}@{sshd.host}"
        for words in ([at, "id"], [at], ["-s", at, "sftp"], ["-W", str(other.endpoint), at]):
            done = await asyncio.to_thread(ssh, sshd, *words)
            assert done.returncode != 0
            assert "uid=" not in done.stdout
        back = ["-N", "-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:1", at]
        done = await asyncio.to_thread(ssh, sshd, *back)
        assert "remote port forwarding failed" in done.stderr, "the account may not listen on the gateway"
