"""Which real parts a test needs, and what happens where one is missing: skipped on a laptop, failed in CI."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

SBIN = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
"""Debian keeps sshd out of an ordinary user's PATH."""


def find(program: str) -> str | None:
    """The program's absolute path: sshd re-executes itself and wants one."""
    return shutil.which(program, path=SBIN)


def _missing(package: str, *programs: str) -> str:
    absent = [program for program in programs if not find(program)]
    return f"no {', '.join(absent)} on PATH (Debian: {package})" if absent else ""


def _apiserver() -> str:
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if not assets:
        return "KUBEBUILDER_ASSETS is not set (a folder with kube-apiserver, etcd and kubectl)"
    absent = [program for program in ("kube-apiserver", "etcd", "kubectl") if not os.access(Path(assets) / program, os.X_OK)]
    return f"KUBEBUILDER_ASSETS={assets} has no {', '.join(absent)}" if absent else ""


def _systemd() -> str:
    if os.geteuid() != 0:
        return "booting systemd in a namespace needs root"
    return "" if Path("/lib/systemd/systemd").exists() else "no systemd (Debian: systemd)"


def _network() -> str:
    if os.geteuid() != 0:
        return "a network namespace with a cable to it needs root"
    return _missing("iproute2 util-linux", "ip", "unshare", "nsenter")


def _dropbear() -> str:
    if os.geteuid() != 0:
        return "a home directory of dropbear's own needs root"
    return _missing("dropbear-bin util-linux", "dropbear", "dropbearkey", "unshare")


PARTS: dict[str, tuple[str, Callable[[], str]]] = {
    "sshd": ("needs OpenSSH's server", lambda: _missing("openssh-server openssh-client", "sshd", "ssh", "ssh-keygen")),
    "apiserver": ("needs a real kube-apiserver", _apiserver),
    "kubectl": ("needs kubectl", lambda: _missing("kubernetes-client", "kubectl")),
    "prometheus": ("needs prometheus and promtool", lambda: _missing("prometheus", "prometheus", "promtool")),
    "network": ("needs root and network namespaces", _network),
    "gcc": ("needs a C compiler", lambda: _missing("gcc", "gcc")),
    "dropbear": ("needs root and dropbear", _dropbear),
    "systemd": ("needs root and systemd", _systemd),
}
"""Marker -> (what it says, why the part cannot be used here or an empty string)."""


def need(part: str) -> None:
    """Skip the running test if `part` is missing; with CI=true fail it."""
    if reason := PARTS[part][1]():
        missing(part, reason)


def missing(part: str, reason: str) -> NoReturn:
    """Skip the running test; with CI=true fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{part} is missing, and CI=true: {reason}", pytrace=False)
    pytest.skip(f"{part}: {reason}")
