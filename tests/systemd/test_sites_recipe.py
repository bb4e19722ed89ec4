"""The recipe of sites.md, word for word: the shipped unit, and a site in another network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from ruamel.yaml import YAML

from tests.support import pages
from tests.systemd.factory import ADDRESS, Factory
from tests.systemd.machine import CHECKOUT, Machine

pytestmark = [pytest.mark.systemd, pytest.mark.sshd]

BEGIN: Final = "version: 1\nadmin: {socket: /run/kubemux/admin.sock}\n"
HEADING: Final = "From nothing"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with Machine(tmp_path) as machine:
        yield machine


def blocks(heading: str) -> list[str]:
    """The shell blocks of the page below `heading`."""
    section = pages.read("docs/sites.md").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [block.partition("```")[0] for block in section.split("```sh\n")[1:]]


def shell(machine: Machine, script: str, *, user: str = "root", stdin: str = "") -> str:
    """Run the commands of `script` in a user's shell. Each must succeed. Returns their output."""
    home = "/root" if user == "root" else f"/home/{user}"
    become = [] if user == "root" else ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
    given = f"<<'EOF'\n{stdin}\nEOF\n" if stdin else ""
    words = ["bash", "-euo", "pipefail", "-c", f"cd; {script.strip()}{given}"]
    return machine.run("env", f"HOME={home}", f"USER={user}", *become, *words).stdout


def until_connected(machine: Machine, sites: int = 1) -> None:
    said = f", {sites}/1 sites connected, "
    machine.wait(lambda: said in machine.show("StatusText")["StatusText"], said)


@contextmanager
def at_the_site(machine: Machine, factory: Factory, *command: str) -> Iterator[None]:
    """Run a command in the factory until the block ends. Then wait until the site is away."""
    with factory.background("env", "HOME=/root", *command):
        until_connected(machine)
        yield
        machine.run("pkill", "-KILL", "-x", "ssh")
    until_connected(machine, 0)


def forms(printed: str) -> tuple[str, str, str]:
    """The command, the unit and the Deployment that `site add` has printed."""
    command = "ssh -N -T " + printed.partition("\nssh -N -T ")[2].partition("\n\n")[0]
    unit, _, after = printed.partition("\n# /etc/systemd")[2].partition("\n# The private key: kubectl")
    deployment = "apiVersion: " + after.partition("\napiVersion: ")[2].partition("\n\n")[0]
    return command, f"# /etc/systemd{unit}", deployment


def test_the_recipe_from_nothing_works(machine: Machine) -> None:
    factory = Factory(machine)
    on_the_bastion, at_site, each_user, then = blocks(HEADING)
    (machine.root / "local/bin/kubemux").symlink_to("/opt/kubemux/bin/kubemux")
    sysusers = machine.root / "etc/sysusers.d/kubemux.conf"
    sysusers.parent.mkdir()
    sysusers.write_text((CHECKOUT / "systemd/kubemux.sysusers.conf").read_text())
    machine.run("systemd-sysusers", "kubemux.conf")
    machine.config.write_text(BEGIN)
    machine.systemctl("start", "kubemux.service")
    with factory.serving():
        machine.config.write_text(BEGIN + pages.block("docs/sites.md", HEADING, "yaml"))
        machine.run("install", "-d", "-m", "700", "/root/.ssh")
        machine.run("install", "-m", "600", "/etc/ssh/of_the_site", "/root/.ssh/factory-7")
        machine.run("install", "/etc/ssh/of_the_site.pub", "/root/factory-7.pub")
        (machine.root / "etc/ssh/kubeconfig").write_text(factory.kubeconfig)
        machine.run("install", "-m", "600", "/etc/ssh/kubeconfig", "/root/factory.kubeconfig")
        printed = shell(machine, on_the_bastion)
        machine.until(ActiveState="active")  # systemd may read the reload's READY=1 after its answer

        host_key = printed.partition(" ssh-ed25519 ")[2].split()[0]
        known = f"[bastion.example.com]:2222 ssh-ed25519 {host_key}\n"
        (machine.root / "etc/ssh/known").write_text(known)
        machine.run("install", "-m", "600", "/etc/ssh/known", "/root/.ssh/known_hosts")
        with at_the_site(machine, factory, "sh", "-c", at_site):
            said = machine.run("kubemux", "site", "show", "factory-7").stdout
            assert f"from {ADDRESS}:" in said
            assert "-R factory-7:1080" in said
            assert "serves    cluster factory; NAME.factory-7" in said
            as_a_user(machine, factory)
            shell(machine, each_user, user="me")
            get, ssh = then.splitlines()
            machine.wait(lambda: "default" in shell(machine, get, user="me"), "kubectl")
            assert shell(machine, ssh, user="me", stdin="ip -brief address").count(f"{ADDRESS}/24") == 1
        assert machine.run("kubemux", "site", "show", "factory-7", check=False).returncode == 1

        command, unit, deployment = forms(printed)
        machine.run("rm", "/root/.ssh/known_hosts")
        with at_the_site(machine, factory, "sh", "-c", command):
            pass
        as_a_service(machine, unit)
        in_a_pod(machine, factory, deployment)


def as_a_user(machine: Machine, factory: Factory) -> None:
    """A user with a kubeconfig for the cluster, and a key for the node."""
    files = {
        "factory.kubeconfig": factory.kubeconfig,
        ".ssh/id_ed25519": (machine.root / "etc/ssh/of_a_user").read_text(),
        ".ssh/known_hosts": factory.known_hosts,
    }
    machine.run("install", "-d", "-o", "me", "/home/me", "/home/me/.ssh")
    for name, text in files.items():
        (machine.root / "etc/ssh/one").write_text(text)
        machine.run("install", "-m", "600", "-o", "me", "-g", "me", "/etc/ssh/one", f"/home/me/{name}")


def as_a_service(machine: Machine, unit: str) -> None:
    """The unit restarts ssh after a crash. A drop-in runs it in the factory's network."""
    name = "kubemux-site-factory-7.service"
    (machine.units / name).write_text(unit)
    (machine.units / f"{name}.d").mkdir()
    inside = (
        "[Service]\nNetworkNamespacePath=/run/netns/factory\n"
        "BindReadOnlyPaths=/etc/netns/factory/hosts:/etc/hosts\n"
    )
    (machine.units / f"{name}.d/here.conf").write_text(inside)
    machine.run("install", "-D", "-m", "400", "/root/.ssh/factory-7", "/etc/kubemux-site/factory-7")
    machine.run("useradd", "--system", "kubemux-site")  # the machine has no libnss-systemd
    machine.systemctl("daemon-reload")
    machine.systemctl("start", name)
    until_connected(machine)
    pid = machine.show("MainPID", unit=name)["MainPID"]
    machine.run("kill", "-KILL", pid)
    machine.wait(lambda: machine.show("MainPID", unit=name)["MainPID"] not in {"0", pid}, "another ssh")
    until_connected(machine)
    machine.systemctl("stop", name)
    until_connected(machine, 0)


def in_a_pod(machine: Machine, factory: Factory, deployment: str) -> None:
    """Run the container's command as its user, with the key at the path where the Secret is mounted."""
    pod = YAML(typ="safe").load(deployment)["spec"]["template"]["spec"]
    [container] = pod["containers"]
    uid = str(pod["securityContext"]["runAsUser"])
    mode = f"{pod['volumes'][0]['secret']['defaultMode']:04o}"
    machine.run("install", "-D", "-m", mode, "-g", uid, "/root/.ssh/factory-7", "/etc/kubemux-site/key")
    become = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]

    def running() -> list[str]:
        return machine.run("pgrep", "-x", "-u", uid, "ssh", check=False).stdout.split()

    with factory.background(*become, *container["command"], *container["args"]):
        until_connected(machine)
        [ssh] = running()
        machine.run("kill", "-KILL", ssh)
        machine.wait(lambda: running() not in ([], [ssh]), "another ssh")
        until_connected(machine)
        [shell] = machine.run("pgrep", "-x", "-u", uid, "sh").stdout.split()
        machine.run("kill", "-TERM", shell)
        until_connected(machine, 0)
        machine.wait(lambda: not running(), "the end of ssh")
