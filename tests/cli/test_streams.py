"""Standard streams that are closed, full, or without a reader: an exit code, and at most one line
about it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FILE = """\
version: 1
admin: {listen: "127.0.0.1:1"}
clusters: {near: {gateway: direct, listen: "127.0.0.1:2", api_servers: ["127.0.0.1:3"]}}
"""


def kubemux(words: list[str], redirection: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a shell, with this redirection."""
    config = folder / "config.yaml"
    config.write_text(FILE)
    return subprocess.run(
        ["sh", "-c", f'"$@" {redirection}', "sh", sys.executable, "-m", "proxy", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"KUBEMUX_CONFIG": str(config), "KUBECONFIG": str(folder / "none")},
    )


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["check"], ["schema"]], ids=" ".join)
def test_a_full_disk_is_one_line(words: list[str], tmp_path: Path) -> None:
    done = kubemux(words, "> /dev/full", tmp_path)
    assert (done.returncode, done.stderr) == (1, "kubemux: No space left on device\n")


@pytest.mark.parametrize("redirection", [">&-", ">&- <&- 2>&-"])
@pytest.mark.parametrize(
    ("words", "code"), [(["schema"], 0), (["kubeconfig", "export"], 0), (["probe", "near"], 1)]
)
def test_a_closed_stream_changes_no_exit_code(
    words: list[str], code: int, redirection: str, tmp_path: Path
) -> None:
    """Otherwise a probe's sockets could get the numbers of the closed streams."""
    done = kubemux(words, redirection, tmp_path)
    assert done.returncode == code, done.stderr
    assert "internal error" not in done.stderr


@pytest.mark.parametrize("words", [["--help"], ["schema"]], ids=" ".join)
def test_a_closed_reader_causes_no_error(words: list[str], tmp_path: Path) -> None:
    assert kubemux(words, "| true", tmp_path).stderr == ""
