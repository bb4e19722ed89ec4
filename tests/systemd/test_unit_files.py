"""systemd-analyze finds no fault in the shipped unit files; it needs no running systemd."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

SHIPPED = Path(__file__).parents[2] / "systemd"
DISTRIBUTION = Path("/lib/systemd/system")

pytestmark = pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="no systemd-analyze (Debian: systemd)"
)


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *words], capture_output=True, text=True, timeout=30, check=False
    )


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A root folder with the units and the programs they start, as install.md installs them."""
    units = tmp_path / "etc/systemd/system"
    shutil.copytree(DISTRIBUTION, tmp_path / "usr/lib/systemd/system", symlinks=True)
    shutil.copytree(SHIPPED, units)
    drop_ins = units / "kubemux.service.d"
    for example in drop_ins.glob("*.conf.example"):
        example.rename(drop_ins / example.stem)
    for program in ("opt/kubemux/bin/kubemux", "usr/bin/install", "usr/bin/chown"):
        (tmp_path / program).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy("/bin/true", tmp_path / program)
    return tmp_path


def verify(root: Path) -> str:
    done = analyze(
        "verify",
        f"--root={root}",
        "--man=no",
        "--recursive-errors=no",
        "kubemux.service",
        "kubemux.socket",
        "kubemux-entry@sre.socket",
    )
    return f"{done.stdout}{done.stderr}"


def verify_users_unit(folder: Path, more: str = "") -> str:
    """Like `verify`, for a user unit. There is no --root for those, so the program is below $HOME."""
    program = folder / ".local/lib/kubemux/bin/kubemux"
    program.parent.mkdir(parents=True)
    shutil.copy("/bin/true", program)
    unit = folder / "kubemux.service"
    unit.write_text((SHIPPED / "user/kubemux.service").read_text() + more)
    environment = {"HOME": str(folder), "XDG_RUNTIME_DIR": str(folder), "PATH": os.environ["PATH"]}
    command = ["systemd-analyze", "verify", "--user", "--man=no", "--recursive-errors=no", str(unit)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
    return f"{done.stdout}{done.stderr}"


def test_systemd_finds_no_mistake_in_the_users_unit(tmp_path: Path) -> None:
    assert verify_users_unit(tmp_path) == ""


def test_systemd_would_find_a_mistake_in_the_users_unit(tmp_path: Path) -> None:
    assert "WantedBuy" in verify_users_unit(tmp_path, "\n[Install]\nWantedBuy=default.target\n")


def test_systemd_finds_no_mistake_in_the_units(installed: Path) -> None:
    assert verify(installed) == ""


@pytest.mark.parametrize("unit", ["kubemux.service", "kubemux.socket", "kubemux.service.d/credentials.conf"])
def test_systemd_would_find_a_mistake_in_the_units(unit: str, installed: Path) -> None:
    path = installed / "etc/systemd/system" / unit
    path.write_text(path.read_text() + "\n[Install]\nWantedBuy=multi-user.target\n")
    assert "WantedBuy" in verify(installed)


def test_exposure_is_at_most_one_and_a_half() -> None:
    report = analyze("security", "--offline=true", "--no-pager", str(SHIPPED / "kubemux.service")).stdout
    found = re.search(r"Overall exposure level for kubemux\.service: (\d+\.\d+)", report)
    assert found, report
    assert float(found[1]) <= 1.5, report
