"""Describes the machine and the programs of a measurement, and finds missing programs."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.support.parts import find

PACKAGES = {
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "iperf3": "iperf3",
    "wrk": "wrk",
    "ab": "apache2-utils",
    "curl": "curl",
    "nginx": "nginx-light",
    "haproxy": "haproxy",
    "gcc": "gcc",
}
"""The Debian package of each program."""

_VERSIONS = {
    "ssh": "-V",
    "iperf3": "--version",
    "wrk": "-v",
    "ab": "-V",
    "curl": "-V",
    "nginx": "-v",
    "haproxy": "-v",
}
"""The option that prints each program's version. wrk then ends with exit code 1."""

STEADY: Final = 0.8
"""If the slowest pace of a run is less than this part of the fastest, its figures cannot be compared."""


def missing() -> str:
    """Which programs are missing, and how to install them; empty if all are installed."""
    absent = [program for program in PACKAGES if not find(program)]
    packages = " ".join(PACKAGES[program] for program in absent)
    return f"missing: {', '.join(absent)} (Debian: sudo apt install {packages})" if absent else ""


def describe() -> dict[str, str]:
    """Processor, kernel, date, and the version of every program. No program may be missing."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
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


def pace() -> float:
    """How fast one core encrypts 32 KiB with AES-128-GCM now, in GB/s. It is lower while other virtual
    machines on the host are busy.

    It is the median of 100 measurements of at least 2 ms, which take about 0.2 s.
    """
    size, rounds = 32 << 10, 1000
    aead, nonce, data, sealed = AESGCM(bytes(16)), bytes(12), bytes(size), bytearray(size + 16)
    found = []
    for _ in range(100):
        began = time.perf_counter()
        for _ in range(rounds):
            aead.encrypt_into(nonce, data, None, sealed)
        found.append(rounds * size / (time.perf_counter() - began) / 1e9)
    return median(found)


def describe_paces(paces: list[float]) -> str:
    """The slowest and fastest pace of a run, and a warning if they differ too much."""
    said = f"one core seals {min(paces):.1f} to {max(paces):.1f} GB/s (AES-128-GCM)"
    if min(paces) < STEADY * max(paces):
        said += "; others use this machine: repeat the run when they do not"
    return said


def _commit() -> str:
    """The commit of this checkout, with `-dirty` if files were changed; empty without git or a checkout."""
    try:
        command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=10).stdout.strip()
    except FileNotFoundError:
        return ""


def _version(program: str, option: str) -> str:
    done = subprocess.run(
        [find(program) or program, option], capture_output=True, text=True, check=False, timeout=10
    )
    said = done.stdout + done.stderr
    found = re.search(r"\d+\.\d\S*", said)
    return found[0].rstrip(",") if found else said
