"""What the figures were measured on and with, and what is missing to measure them."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from tests.support.parts import find

PACKAGES = {
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "iperf3": "iperf3",
    "wrk": "wrk",
    "ab": "apache2-utils",
    "nginx": "nginx-light",
    "haproxy": "haproxy",
    "gcc": "gcc",
}
"""Program -> Debian package."""

_VERSIONS = {"ssh": "-V", "iperf3": "--version", "wrk": "-v", "ab": "-V", "nginx": "-v", "haproxy": "-v"}
"""Program -> the option that makes it say its version; wrk then ends with exit code 1."""


def missing() -> str:
    """What is not installed and how to get it; empty if nothing is missing."""
    absent = [program for program in PACKAGES if not find(program)]
    packages = " ".join(PACKAGES[program] for program in absent)
    return f"missing: {', '.join(absent)} (Debian: sudo apt install {packages})" if absent else ""


def describe() -> dict[str, str]:
    """Processor, kernel, date and the version of everything that takes part. Needs what `missing` asks for."""
    models = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    return {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "processor": f"{os.cpu_count()} x {models[0] if models else platform.machine()}",
        "kernel": platform.release(),
        "commit": _commit(),
        "load": f"{os.getloadavg()[0]:.2f}",
        "python": platform.python_version(),
        **{package: version(package) for package in ("kubemux", "uvloop", "asyncssh", "cryptography")},
        **{program: _version(program, option) for program, option in _VERSIONS.items()},
    }


def _commit() -> str:
    """Of this checkout, with `-dirty` if it is not quite that one; empty without git or outside a checkout."""
    try:
        command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=10).stdout.strip()
    except FileNotFoundError:
        return ""


def _version(program: str, option: str) -> str:
    done = subprocess.run([find(program) or program, option], capture_output=True, text=True, check=False, timeout=10)
    said = done.stdout + done.stderr
    found = re.search(r"\d+\.\d\S*", said)
    return found[0].rstrip(",") if found else said
