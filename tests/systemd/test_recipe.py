"""The recipes of README and install.md, word for word, on a machine without kubemux."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support import pages, parts
from tests.systemd.bastion import Bastion
from tests.systemd.machine import CHECKOUT, Machine

pytestmark = [pytest.mark.systemd, pytest.mark.sshd, pytest.mark.timeout(700)]

DEBIAN_PYTHON: Final = "/usr/bin/python3"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages that `pip install .` downloads, because the machine has no network."""
    folder = tmp_path_factory.mktemp("wheels")
    pip = [sys.executable, "-m", "pip", "--python", DEBIAN_PYTHON]
    done = subprocess.run(
        [*pip, "download", "--quiet", "--dest", folder, CHECKOUT, "hatchling>=1.27"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode:
        parts.missing("package index", f"{done.stdout}{done.stderr}")
    return folder


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with Machine(tmp_path, is_installed=False) as machine:
        yield machine


def typed(machine: Machine, wheels: Path, script: str, *, umask: str, user: str = "root") -> str:
    """The output of `script` in a shell in a checkout. Every command must succeed."""
    home = machine.run("sh", "-c", f"echo ~{user}").stdout.strip()
    files = ("pyproject.toml", "README.md", "proxy", "config", "systemd")
    machine.run("install", "-d", "-o", user, f"{home}/checkout", f"{home}/wheels")
    machine.run("cp", "-r", *(str(CHECKOUT / name) for name in files), f"{home}/checkout")
    machine.run("sh", "-c", f"cp {wheels}/*.whl {home}/wheels; chown -R {user} {home}/checkout {home}/wheels")
    runtime = f"XDG_RUNTIME_DIR=/run/user/{machine.run('id', '-u', user).stdout.strip()}"
    environment = [
        f"HOME={home}",
        f"USER={user}",
        runtime,
        "EDITOR=true",
        "PIP_NO_INDEX=1",
        f"PIP_FIND_LINKS={home}/wheels",
    ]
    become = [] if user == "root" else ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
    # If a command fails, background processes must not keep the output open.
    leave = "trap 'kill $(jobs -p) 2>/dev/null || :' EXIT"
    shell = ["bash", "-euo", "pipefail", "-c", f"{leave}; umask {umask}; cd ~/checkout\n{script}"]
    return machine.run("env", *environment, *become, *shell, timeout=600).stdout


def test_the_recipe_for_a_bastion_works(machine: Machine, wheels: Path) -> None:
    """No file is edited: the machine has the hosts that install.md and minimal.yaml name.

    root has a strict umask.
    """
    bastion = Bastion(machine)
    with bastion.serving():
        machine.run("install", "-D", "-m", "600", bastion.inside("key"), "/root/keys/eu-edge")
        machine.run("install", "-m", "600", bastion.inside("ca.crt"), "/root/prod-eu.crt")
        said = typed(
            machine, wheels, pages.shell("docs/install.md", "Install on a bastion (systemd)"), umask="027"
        )
        assert "/etc/kubemux/config.yaml: ok, 1 gateway, 1 cluster" in said
        assert "active (running)" in said
        up = "1/1 clusters up, 1/1 gateways connected, 0 connections"
        machine.wait(lambda: machine.show("StatusText")["StatusText"] == up, up)
        machine.systemctl("reload", "kubemux.service")
        assert machine.systemctl("is-enabled", "kubemux.service").stdout == "enabled\n"
        # Any user can run it, whatever the umask was.
        assert (
            "prod-eu" in machine.run("setpriv", "--reuid=1000", "--clear-groups", "kubemux", "status").stdout
        )


# systemd's own unit for user managers needs PAM and logind.
USER_MANAGER: Final = """
[Service]
Type=notify
User=%i
Environment=XDG_RUNTIME_DIR=/run/user/%i
ExecStartPre=+/usr/bin/install -d -m 700 -o %i /run/user/%i
ExecStart=/lib/systemd/systemd --user
Delegate=yes
KillMode=mixed
"""


def test_the_recipes_for_the_first_five_minutes_and_for_the_permanent_setup_work(
    machine: Machine, wheels: Path
) -> None:
    """An ordinary user runs kubemux by hand first, then with a user unit under a real user manager."""
    bastion = Bastion(machine)
    (machine.units / "user@.service").write_text(USER_MANAGER)
    loginctl = machine.root / "local/bin/loginctl"
    loginctl.write_text('#!/bin/sh\necho "loginctl $*"\n')  # there is no logind to ask
    loginctl.chmod(0o755)
    with bastion.serving():
        machine.run("install", "-d", "-o", "me", "/home/me", "/home/me/.ssh", "/home/me/.kube")
        machine.run("install", "-m", "600", "-o", "me", bastion.inside("key"), "/home/me/.ssh/id_ed25519")
        (machine.root / "etc/ssh/kubeconfig").write_text(bastion.kubeconfig)
        machine.run("install", "-m", "600", "-o", "me", bastion.inside("kubeconfig"), "/home/me/.kube/config")
        five_minutes = pages.shell("README.md", "From `ssh -L` to kubemux in five minutes")
        by_name = pages.shell("README.md", "No port map")
        script = f"{five_minutes}\n{by_name}\nkill %1\nwait"
        said = typed(machine, wheels, script, umask="022", user="me")
        assert "/home/me/.config/kubemux/config.yaml: ok, 1 gateway, 1 cluster" in said
        assert said.count("kube-system") == 2, "kubectl works by port and by name"
        kubeconfig = machine.run("cat", "/home/me/.kube/kubemux").stdout
        assert '"http://127.0.0.1:3128"' in kubeconfig
        # Creating the virtual environment again loses nothing.
        kept = machine.run(
            "find",
            "/home/me/.local/lib/kubemux",
            "-newer",
            "/home/me/.config/kubemux/config.yaml",
            "-type",
            "f",
        )
        assert kept.stdout == ""

        machine.systemctl("start", "user@1000.service")
        said = typed(
            machine,
            wheels,
            pages.shell("docs/install.md", "For yourself alone (systemd)"),
            umask="022",
            user="me",
        )
        assert "active (running)" in said
        assert said.endswith("loginctl enable-linger\n")
        shown = "systemctl --user show kubemux --property=StatusText"
        up = "StatusText=1/1 clusters up, 1/1 gateways connected, 0 connections\n"
        machine.wait(lambda: typed(machine, wheels, shown, umask="022", user="me") == up, up)
        get = "kubectl --kubeconfig ~/.kube/kubemux --context prod-eu get ns"
        assert "kube-system" in typed(
            machine, wheels, f"{get}; systemctl --user reload kubemux", umask="022", user="me"
        )
