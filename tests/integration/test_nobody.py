"""kubemux as a uid without a user name and a home, as in containers, or with `DynamicUser=` on a minimal
system.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.conftest import cluster, gateway
from tests.integration.running import PROBE, running, settled, wait_up
from tests.support.https import Https
from tests.support.ports import free_port
from tests.support.sshd import Sshd
from tests.support.tls import Certificates

UID = 54321
# A capability, not root, lets it read the interpreter and the tests' files, wherever they are.
AS_NOBODY = (
    *("env", "-u", "HOME", "-u", "USER", "-u", "LOGNAME", "-u", "LNAME", "-u", "USERNAME"),
    *("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"),
    *("--inh-caps=+dac_override", "--ambient-caps=+dac_override"),
)

pytestmark = [
    pytest.mark.sshd,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another"),
]


def kubemux(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [*AS_NOBODY, sys.executable, "-m", "proxy", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_uid_of_these_tests_has_neither_a_name_nor_a_home() -> None:
    program = "import os, pwd, pathlib\nfor ask in (lambda: pwd.getpwuid(os.getuid()), pathlib.Path.home):\n"
    program += "    try: print(ask())\n    except (KeyError, RuntimeError): print('none')"
    done = subprocess.run(
        [*AS_NOBODY, sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "none\nnone\n"


async def test_with_a_configured_user_the_uid_needs_no_name(
    sshd: Sshd, tmp_path: Path, certificates: Certificates
) -> None:
    folder = tmp_path / "daemon"
    port = free_port()
    async with Https(certificates) as server:
        clusters = {
            "prod": cluster(port, server.endpoint, probe={**PROBE, "timeout": "60s"}, ca=certificates.ca)
        }
        async with running(
            folder, gateways={"edge": gateway(sshd)}, clusters=clusters, wrapper=AS_NOBODY
        ) as daemon:
            await wait_up(daemon, "prod")
            for words in (
                ["check"],
                ["status"],
                ["probe", "prod"],
                ["kubeconfig", "export", "--output", str(folder / "kubeconfig")],
            ):
                done = await asyncio.to_thread(kubemux, *words, "--config", daemon.config)
                assert done.returncode == 0, (words, done.stderr)
                assert "~" not in done.stderr, words


async def test_without_a_user_the_message_has_the_remedy(sshd: Sshd, tmp_path: Path) -> None:
    """`user:` is by default the name of the user that runs kubemux, and this uid has no name."""
    unnamed = {key: value for key, value in gateway(sshd).items() if key != "user"}
    async with running(
        tmp_path / "daemon", gateways={"edge": unnamed}, clusters={}, wrapper=AS_NOBODY
    ) as daemon:
        told = (await settled(daemon, "edge"))["edge"]
    assert told["reason"] == "credentials_unusable"
    assert f"uid {UID}" in told["message"]
    assert "user:" in told["hint"]
    assert "passphrase" not in told["message"] + told["hint"]


async def test_an_ssh_config_that_ssh_refuses_has_a_remedy(sshd: Sshd, tmp_path: Path) -> None:
    path = tmp_path / "ssh_config"
    path.write_text("Host *\n")
    section = gateway(sshd, ssh_config=str(path))
    async with running(
        tmp_path / "daemon", gateways={"edge": section}, clusters={}, wrapper=AS_NOBODY
    ) as daemon:
        told = (await settled(daemon, "edge"))["edge"]
    assert told["reason"] == "credentials_unusable"
    assert told["message"].endswith(f"cannot be used: No user exists for uid {UID}")
    assert "an entry in /etc/passwd" in told["hint"]


def test_a_path_with_an_unknown_user_names_that_user(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("version: 1\nadmin: {socket: ~no-such-user/admin.sock}\n")
    done = kubemux("check", "--config", path)
    assert (done.returncode, "there is no user 'no-such-user'" in done.stderr) == (78, True), done.stderr


def test_a_path_below_home_without_a_home_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "version: 1\ngateways: {edge: {host: edge, user: me, identity_files: [~/key], known_hosts: "
        "[~/known_hosts]}}\n"
    )
    done = kubemux("check", "--config", path)
    assert done.returncode == 78
    assert (
        done.stderr.count(f"~ stands for a home directory, and uid {UID} has none\n  hint: for example ") == 2
    )
    hints = [line for line in done.stderr.splitlines() if line.startswith("  hint: ")]
    assert not any("~" in hint for hint in hints), hints  # no hint may propose what fails in the same way
