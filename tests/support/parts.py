"""The real programs that a test needs. Where one is missing, the test is skipped, or fails in CI."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest

_SECONDS = 60
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
        return "KUBEBUILDER_ASSETS (kube-apiserver, etcd, kubectl) is not set: see CONTRIBUTING.md"
    absent = [
        program
        for program in ("kube-apiserver", "etcd", "kubectl")
        if not os.access(Path(assets) / program, os.X_OK)
    ]
    return f"KUBEBUILDER_ASSETS={assets} has no {', '.join(absent)}" if absent else ""


@cache
def _refused(script: str, *namespaces: str) -> str:
    """Why `script` cannot run in new namespaces (root in a container often may not make any), or an empty
    string.
    """
    if os.geteuid() != 0:
        return "needs root"
    command = ["unshare", *(f"--{name}" for name in namespaces), "sh", "-ec", script]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except FileNotFoundError:
        return "no unshare on PATH (Debian: util-linux)"
    except subprocess.TimeoutExpired:
        return f"{' '.join(command[:-1])} has not ended within {_SECONDS} s"
    return done.stderr.strip() or f"exit code {done.returncode}" if done.returncode else ""


def _systemd() -> str:
    if not Path("/lib/systemd/systemd").exists():
        return "no systemd (Debian: systemd)"
    # The first steps of a machine in tests/systemd.
    mounts = (
        "mount -t tmpfs tmpfs /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; unshare --pid "
        "--fork --net --cgroup true"
    )
    return _missing("util-linux", "nsenter") or _refused(mounts, "mount", "uts", "ipc")


def _network() -> str:
    return _missing("iproute2 util-linux", "ip", "nsenter") or _refused("ip link set lo up", "net")


def _overlay() -> str:
    script = (
        "mount -t tmpfs tmpfs /mnt; cd /mnt; mkdir u w r; mount -t overlay o -o "
        "lowerdir=/,upperdir=u,workdir=w r"
    )
    return _missing("apt dpkg", "apt-get", "dpkg-deb") or _refused(script, "mount")


def _dropbear() -> str:
    return _missing("dropbear-bin", "dropbear", "dropbearkey") or _refused(
        "mount -t tmpfs tmpfs /mnt", "mount"
    )


NEWER_SSHD = Path(__file__).parents[2] / ".tools" / "openssh" / "sshd"
"""Debian 13's sshd (10.0), where `tests/support/newer_openssh` unpacks it, to test what OpenSSH added after
9.2 (PerSourcePenalties).
"""


def _newer_sshd() -> str:
    if os.geteuid() != 0:
        return "sshd's separated privileges need root"
    return "" if NEWER_SSHD.exists() else f"no {NEWER_SSHD} (make parts unpacks Debian 13's there)"


NEWER_KUBECTL = Path(__file__).parents[2] / ".tools" / "kubectl" / "kubectl"
"""A current kubectl, where `tests/support/newer_kubectl` unpacks it, with helm in the same folder."""


def _newer_kubectl() -> str:
    return "" if NEWER_KUBECTL.exists() else f"no {NEWER_KUBECTL} (make test unpacks it)"


PARTS: dict[str, tuple[str, Callable[[], str]]] = {
    "sshd": (
        "needs OpenSSH's server",
        lambda: _missing("openssh-server openssh-client", "sshd", "ssh", "ssh-keygen"),
    ),
    "newer_sshd": ("needs root and Debian 13's sshd", _newer_sshd),
    "apiserver": ("needs a real kube-apiserver", _apiserver),
    "kubectl": ("needs kubectl", lambda: _missing("kubernetes-client", "kubectl")),
    "newer_kubectl": ("needs a current kubectl and helm", _newer_kubectl),
    "prometheus": ("needs prometheus and promtool", lambda: _missing("prometheus", "prometheus", "promtool")),
    "network": ("needs root and network namespaces", _network),
    "user_namespace": ("needs root and user namespaces", lambda: _refused("true", "user", "map-root-user")),
    "htpasswd": ("needs Apache's htpasswd", lambda: _missing("apache2-utils", "htpasswd")),
    "overlay": ("needs root, an overlay over this machine, and apt", _overlay),
    "proxy_clients": (
        "needs the programs with which people go through a proxy",
        lambda: _missing(
            "curl netcat-openbsd corkscrew connect-proxy socat ncat",
            *("curl", "nc.openbsd", "corkscrew", "connect-proxy", "socat", "ncat"),
        ),
    ),
    "ssh_clients": (
        "needs the SSH clients of dropbear and PuTTY",
        lambda: _missing("dropbear-bin putty-tools", "dbclient", "dropbearconvert", "plink", "puttygen"),
    ),
    "gcc": ("needs a C compiler", lambda: _missing("gcc", "gcc")),
    "dropbear": ("needs root, a mount namespace and dropbear", _dropbear),
    "systemd": ("needs root, namespaces and systemd", _systemd),
}
"""By marker: its description, and a function that says why the part cannot be used here (empty if it can)."""


def need(part: str) -> None:
    """Skip the running test if `part` is missing; with CI=true fail it."""
    if reason := PARTS[part][1]():
        missing(part, reason)


def missing(part: str, reason: str) -> NoReturn:
    """Skip the running test; with CI=true fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{part} is missing, and CI=true: {reason}", pytrace=False)
    pytest.skip(f"{part}: {reason}")
