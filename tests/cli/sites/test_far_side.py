"""The command, unit and Deployment of a site: the real ssh and systemd read them."""

from __future__ import annotations

import asyncio
import re
import shlex
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from proxy.cli.sites.far_side import IMAGE, FarSide
from proxy.config.matches import Match
from proxy.runtime.endpoint import Endpoint
from tests.support.ssh_bed import SshBed, ended
from tests.support.ssh_keys import public

HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIG25Lj4n0D8aLIURa/SFpa7A8g2FaLvQuQSo2glKfmXm"

ANOTHER = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIHb7EZTvYeqsbbQwI9DTWNUzKHpjHJvei5PqXM942Lz"


def site(
    *permit: str,
    name: str = "factory-7",
    server: str = "bastion.example.com:2222",
    host_keys: tuple[str, ...] = (HOST_KEY,),
) -> FarSide:
    return FarSide(name, Endpoint.parse(server), host_keys, tuple(map(Match.parse, permit)), 1080)


def as_ssh_reads_it(command: str) -> dict[str, str]:
    """The options that ssh parses from a shell command."""
    assert "ssh -N -T " in command
    done = subprocess.run(
        ["sh", "-c", command.replace("ssh -N -T ", "ssh -G -F none -N -T ")],
        env={"HOME": "/nonexistent", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stderr == ""
    return dict(line.partition(" ")[::2] for line in done.stdout.splitlines())


@pytest.mark.sshd
def test_ssh_takes_every_option_of_the_command() -> None:
    read = as_ssh_reads_it(site("127.0.0.1:6443", "*:22").command("/dev/null"))
    assert (read["user"], read["hostname"], read["port"]) == ("factory-7", "bastion.example.com", "2222")
    assert read["identityfile"] == "/dev/null"
    assert read["remoteforward"] == "[factory-7]:1080 [socks]:0"
    assert (read["serveraliveinterval"], read["serveralivecountmax"]) == ("5", "2")
    assert (read["exitonforwardfailure"], read["stricthostkeychecking"]) == ("yes", "true")
    assert read["knownhostscommand"] == f"/bin/echo [bastion.example.com]:2222 {HOST_KEY}"
    assert read["permitremoteopen"] == "127.0.0.1:6443 *:22"
    first, *others = read["ciphers"].split(",")
    assert first == "aes128-gcm@openssh.com"
    assert others, "ssh's own list follows"


@pytest.mark.sshd
@pytest.mark.parametrize(
    ("permit", "options", "said"),
    [
        ((), "none", ""),
        (("kube.local:6443", "[fd00::7]:22", "db:*"), "kube.local:6443 [fd00::7]:22 db:*", ""),
        (("*:22",), "*:22", ""),
        (("10.1.0.0/16:22", "node-*:22"), "*:22", "10.1.0.0/16:22 is *:22 there, node-*:22 is *:22 there."),
        (("db:2000-2999",), "db:*", "db:2000-2999 is db:* there."),
    ],
)
def test_patterns_too_wide_for_ssh_get_a_comment(permit: tuple[str, ...], options: str, said: str) -> None:
    far_side = site(*permit)
    read = as_ssh_reads_it(far_side.command("/dev/null"))
    assert (read["permitremoteopen"]) == options
    for form in (far_side.command("/dev/null"), far_side.unit(), far_side.deployment(IMAGE)):
        assert ("# PermitRemoteOpen has neither" in form) == bool(said)
        assert said in form


@pytest.mark.sshd
def test_a_server_may_be_at_port_22_and_at_an_ipv6_address() -> None:
    assert as_ssh_reads_it(site(server="bastion:22").command("/dev/null"))["knownhostscommand"].startswith(
        "/bin/echo bastion ssh-ed25519 "
    )
    read = as_ssh_reads_it(site(server="[fd00::1]:2222").command("/dev/null"))
    assert read["hostname"] == "fd00::1"
    assert read["knownhostscommand"].startswith("/bin/echo [fd00::1]:2222 ")


@pytest.mark.sshd
@pytest.mark.parametrize("is_first", [True, False])
async def test_a_site_knows_the_server_by_each_of_its_host_keys(tmp_path: Path, is_first: bool) -> None:
    """While a host key is replaced, the server has two."""
    async with SshBed(tmp_path / "bed") as bed:
        keys = (public(bed.host_key), ANOTHER) if is_first else (ANOTHER, public(bed.host_key))
        command = site(server=str(bed.address), host_keys=keys).command(str(bed.factory))
        process = await asyncio.create_subprocess_exec(
            "sh",
            "-c",
            f"exec {command}",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        )
        try:
            await bed.logged_in()
        finally:
            await ended(process)


def verify(folder: Path, unit: str) -> str:
    root = folder / "root"
    units = root / "etc/systemd/system"
    units.mkdir(parents=True)
    shutil.copytree("/lib/systemd/system", root / "usr/lib/systemd/system", symlinks=True)
    (root / "usr/bin").mkdir()
    shutil.copy("/bin/true", root / "usr/bin/ssh")
    (units / "kubemux-site-factory-7.service").write_text(unit)
    command = ["systemd-analyze", "verify", f"--root={root}", "--man=no", "--recursive-errors=no"]
    done = subprocess.run(
        [*command, "kubemux-site-factory-7.service"], capture_output=True, text=True, timeout=30, check=False
    )
    return done.stdout + done.stderr


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze (Debian: systemd)")
def test_systemd_reports_no_problem_in_the_unit(tmp_path: Path) -> None:
    unit = site("127.0.0.1:6443", "10.1.0.0/16:22").unit()
    assert verify(tmp_path, unit) == ""
    assert "Mist" in verify(tmp_path / "wrong", unit.replace("[Service]", "[Service]\nMistake=yes"))
    for line in ("Restart=always", "RestartSec=1", "StartLimitIntervalSec=0"):
        assert f"\n{line}\n" in unit


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze (Debian: systemd)")
def test_the_exposure_of_the_unit_is_at_most_one_and_a_half(tmp_path: Path) -> None:
    path = tmp_path / "kubemux-site-factory-7.service"
    path.write_text(site().unit())
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(path)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout
    found = re.search(r"Overall exposure level for \S+: (\d+\.\d+)", said)
    assert found, said
    assert float(found[1]) <= 1.5


@pytest.mark.parametrize("host_keys", [(HOST_KEY,), (HOST_KEY, ANOTHER)])
def test_all_forms_have_the_same_options(host_keys: tuple[str, ...]) -> None:
    far_side = site("127.0.0.1:6443", "*:22", host_keys=host_keys)
    start = far_side.unit().partition("ExecStart=")[2].partition("\nLoadCredential")[0].replace("\\\n", " ")
    document = YAML(typ="safe").load(far_side.deployment(IMAGE))
    [container] = document["spec"]["template"]["spec"]["containers"]
    words = {
        "unit": [*shlex.split(start)],
        "deployment": container["args"][1:],
        "command": shlex.split(far_side.command("KEY")),
    }
    options = {
        form: sorted(value for word, value in pairwise(found) if word == "-o")
        for form, found in words.items()
    }
    assert options["unit"] == options["deployment"] == options["command"]
    assert len(options["unit"]) == 10
