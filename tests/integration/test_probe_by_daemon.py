"""`kubemux probe` by a user who may not read the keys: the daemon probes in its place."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.integration.conftest import cluster, gateway
from tests.integration.running import PROBE, running, wait_for_log, wait_up
from tests.support.https import Https
from tests.support.ports import free_port
from tests.support.sshd import Sshd
from tests.support.tls import Certificates

SOMEBODY = 54321
# Root without the capability to read other users' files; the daemon has it.
WITHOUT_RIGHTS = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")

pytestmark = [pytest.mark.sshd, pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up rights")]


async def kubemux(*words: str | Path, rights: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    def run() -> subprocess.CompletedProcess[str]:
        command = [*rights, sys.executable, "-m", "proxy", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    return await asyncio.to_thread(run)


async def probe(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return await kubemux("probe", *words, rights=WITHOUT_RIGHTS)


def libraries(pid: int) -> str:
    """The libraries that the process has mapped."""
    return Path(f"/proc/{pid}/maps").read_text()


def untimed(lines: list[str]) -> list[str]:
    return [re.sub(r"  [\d.]+ ms", "", line) for line in lines]


async def test_the_daemon_probes_for_users_who_may_not_read_the_keys(
    sshd: Sshd, tmp_path: Path, certificates: Certificates
) -> None:
    async with Https(certificates) as server:
        clusters = {
            "prod": cluster(
                free_port(), server.endpoint, probe={**PROBE, "timeout": "60s"}, ca=certificates.ca
            )
        }
        os.chown(sshd.identity, SOMEBODY, SOMEBODY)
        async with running(
            tmp_path / "daemon",
            gateways={"edge": gateway(sshd)},
            clusters=clusters,
            executes=True,  # a daemon that is forked has libraries that it has not loaded
        ) as daemon:
            await wait_up(daemon, "prod")
            by_itself = await kubemux("probe", "prod", "--config", daemon.config)
            asked = await probe("prod", "--config", daemon.config)
            assert (asked.returncode, asked.stderr) == (
                0,
                f"this user may not read {sshd.identity}: the daemon, pid {daemon.pid}, sent the probe\n",
            )
            head, *steps = asked.stdout.splitlines()
            assert head == "prod through edge, probed by the daemon"
            assert untimed(steps) == untimed(by_itself.stdout.splitlines()[1:])
            assert steps[-1] == "alive: ok"
            await wait_for_log(daemon, "link closed", gateway="edge (probe)")
            assert {entry["gateway"] for entry in daemon.events("link closed")} == {"edge (probe)"}, (
                "the daemon's own links stay"
            )

            document = json.loads((await probe("prod", "--json", "--config", daemon.config)).stdout)
            assert (document["alive"], document["result"], document["daemon"]) == (True, "ok", daemon.pid)
            assert [step["stage"] for step in document["steps"]] == [
                "tcp",
                "ssh",
                "auth",
                "channel",
                "tls",
                "http",
            ]

            loaded = libraries(daemon.pid)
            assert "_pydantic_core" not in loaded, "the daemon has probed without loading that library"
            assert "uvloop" in loaded

            unknown = await probe("prdo", "--config", daemon.config)
            assert (unknown.returncode, unknown.stdout) == (2, "")
            assert "did you mean 'prod'?" in unknown.stderr

            await server.refuse()
            refused = await probe("prod", "--config", daemon.config)
            assert refused.returncode == 1
            assert refused.stdout.splitlines()[-1] == "down: channel_refused"
            assert "hint: is the API server listening" in refused.stdout

        gone = await probe("prod", "--config", daemon.config)
        assert (gone.returncode, gone.stdout) == (78, "")
        assert f"{sshd.identity} may not be read by this user" in gone.stderr
        assert "nor could the daemon be asked to probe for this user: " in gone.stderr


async def test_with_an_invalid_file_the_daemon_is_not_asked(sshd: Sshd, tmp_path: Path) -> None:
    os.chown(sshd.identity, SOMEBODY, SOMEBODY)
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(json.dumps({"version": 1, "gateways": {"edge": gateway(sshd)}, "clusterz": {}}))
    done = await probe("prod", "--config", wrong)
    assert (done.returncode, done.stdout) == (78, "")
    assert "clusterz: unknown key" in done.stderr
    assert "the daemon be asked" not in done.stderr
