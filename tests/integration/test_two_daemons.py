"""A second daemon with the same addresses, and a daemon whose configuration file is gone: each hint names a
command that works.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

from tests.integration.conftest import cluster
from tests.support.daemon import Daemon
from tests.support.kubemux import run
from tests.support.ports import free_port


def kubemux(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return run(*words, environment=environment, executes=True)


def hinted(text: str) -> list[str]:
    """The last hint's command; if it names an option, the command that was run with that option."""
    match = re.search(r"hint: .*?((?:kubemux status )?--config (?:'[^']*'|\S+))", text)
    assert match, text
    return shlex.split(match[1])


def test_a_second_daemon_says_how_to_find_the_first(tmp_path: Path) -> None:
    port = free_port()
    clusters = {"near": cluster(port, via="direct", api_servers=["127.0.0.1:1"])}
    with Daemon(tmp_path / "the first", gateways={}, clusters=clusters) as first:
        second = tmp_path / "the second" / "config.yaml"
        second.parent.mkdir()
        second.write_bytes(first.config.read_bytes())

        refused = kubemux("run", "--config", second)
        assert refused.returncode == 1
        (program, *words) = hinted(refused.stderr)
        assert program == "kubemux"
        told = kubemux(*words)
        assert (told.returncode, told.stdout) == (1, "")
        assert f"the kubemux there runs with {first.config}, not with {second}" in told.stderr
        shown = kubemux("status", *hinted(told.stderr))
        assert (shown.returncode, shown.stderr) == (0, "")
        assert "near" in shown.stdout


def test_a_daemon_whose_file_is_gone_is_found_by_its_user(tmp_path: Path) -> None:
    folder = tmp_path / ".config" / "kubemux"
    environment = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": "", "XDG_STATE_HOME": "", "KUBEMUX_CONFIG": ""}
    with Daemon(
        folder, gateways={}, clusters={}, environment=environment, expected_errors=["reload rejected"]
    ) as daemon:
        daemon.config.unlink()
        shown = kubemux("status", **environment)
        assert (shown.returncode, shown.stderr) == (0, ""), shown.stderr
        assert f"pid {daemon.pid}" in shown.stdout
        refused = kubemux("reload", **environment)
        assert (refused.returncode, refused.stdout) == (78, "")
        assert f"{daemon.config}: the file does not exist" in refused.stderr
        assert refused.stderr.endswith(
            f"{daemon.config}: refused as a whole: the daemon keeps its configuration; "
            "it reads changed key files all the same\n"
        )
