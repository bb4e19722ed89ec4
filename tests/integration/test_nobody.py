"""A uid without a name and without a home, as containers and `DynamicUser=` on a bare system have it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

UID = 54321
# It may read the interpreter and what tests have made, wherever that is: by a capability, not as root.
AS_NOBODY = (
    *("env", "-u", "HOME", "-u", "USER", "-u", "LOGNAME", "-u", "LNAME", "-u", "USERNAME"),
    *("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"),
    *("--inh-caps=+dac_override", "--ambient-caps=+dac_override"),
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another")


def kubemux(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [*AS_NOBODY, sys.executable, "-m", "proxy", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_it_has_neither_a_name_nor_a_home() -> None:
    program = "import os, pwd, pathlib\nfor ask in (lambda: pwd.getpwuid(os.getuid()), pathlib.Path.home):\n"
    program += "    try: print(ask())\n    except (KeyError, RuntimeError): print('none')"
    done = subprocess.run([*AS_NOBODY, sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "none\nnone\n"


def test_a_path_below_home_is_said_to_have_none(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "version: 1\ngateways: {edge: {host: edge, user: me, identity_files: [~/key], known_hosts: [~/known_hosts]}}\n"
    )
    done = kubemux("check", "--config", path)
    assert done.returncode == 78
    assert done.stderr.count(f"~ stands for a home directory, and uid {UID} has none\n  hint: for example ") == 2
    hints = [line for line in done.stderr.splitlines() if line.startswith("  hint: ")]
    assert not any("~" in hint for hint in hints), hints  # no remedy that fails in the same way
