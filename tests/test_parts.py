"""`make test` as root: what it installs, and that it leaves the machine otherwise unchanged.

It runs Debian's apt and dpkg on an overlay file system over this machine's.
"""

from __future__ import annotations

import hashlib
import os
import pty
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

SCRIPT: Final = Path(__file__).parent / "parts.sh"

pytestmark = pytest.mark.overlay

# The maintainer script that debhelper writes for a package with a service.
_POSTINST: Final = """#!/bin/sh
set -e
update-rc.d kubemux-part defaults
invoke-rc.d --skip-systemd-native kubemux-part start
deb-systemd-helper enable kubemux-part.service
deb-systemd-invoke start kubemux-part.service
"""
_UNIT: Final = (
    "[Service]\nExecStart=/bin/sleep 1d\n[Install]\nWantedBy=multi-user.target\nAlias=part.service\n"
)
_INIT: Final = """#!/bin/sh
### BEGIN INIT INFO
# Provides: kubemux-part
# Required-Start: $remote_fs
# Required-Stop: $remote_fs
# Default-Start: 2 3 4 5
# Default-Stop: 0 1 6
### END INIT INFO
echo "init $1" >> /started
"""
_CONTROL: Final = (
    "Package: kubemux-part\nVersion: 1\nArchitecture: all\nMaintainer: nobody "
    "<nobody@example.com>\nDescription: none\n"
)
# /run/systemd/system says that systemd runs, so the maintainer script starts services through systemctl.
_ROOT: Final = """
set -e
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
cd "$1/root"
mount --rbind /proc proc
mount --rbind /dev dev
mount -t tmpfs tmpfs run
mkdir -p run/systemd/system run/lock
mount --rbind "$2" mnt
rm -rf etc/apt/sources.list etc/apt/sources.list.d usr/sbin/policy-rc.d
echo 'deb [trusted=yes] file:/mnt ./' > etc/apt/sources.list
mv usr/bin/systemctl usr/bin/systemctl.real
cat > usr/bin/systemctl <<"EOF"
#!/bin/sh
case "$*" in *--root=*) exec systemctl.real "$@" ;; *is-enabled*) exec systemctl.real --root=/ "$@"; esac
echo "systemctl $*" >> /started
EOF
chmod 755 usr/bin/systemctl
: > started
shift 2
exec chroot . "$@"
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository for apt with one package, which has a program and a service."""
    folder, tree = tmp_path / "repository", tmp_path / "tree"
    contents = {
        "DEBIAN/control": (_CONTROL, 0o644),
        "DEBIAN/postinst": (_POSTINST, 0o755),
        "lib/systemd/system/kubemux-part.service": (_UNIT, 0o644),
        "etc/init.d/kubemux-part": (_INIT, 0o755),
        "usr/bin/kubemux-part": ("#!/bin/sh\n", 0o755),
    }
    for name, (text, mode) in contents.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
        (tree / name).chmod(mode)
    folder.mkdir()
    package = folder / "part.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-b", tree, package], check=True, capture_output=True, timeout=100
    )
    data = package.read_bytes()
    index = f"{_CONTROL}Filename: ./part.deb\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"
    (folder / "Packages").write_text(index)
    (folder / "parts.sh").write_bytes(SCRIPT.read_bytes())
    return folder


def inside(
    tmp_path: Path, repository: Path, script: str, *, stdin: int = subprocess.DEVNULL, **env: str
) -> str:
    """The output of `script` in a shell on the overlay, with the repository at /mnt."""
    (tmp_path / "overlay").mkdir(exist_ok=True)
    folders = (str(tmp_path / "overlay"), str(repository))
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _ROOT, "sh", *folders]
    environment: Mapping[str, str] = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", **env}
    done = subprocess.run(
        [*command, "bash", "-ec", script],
        stdin=stdin, env=environment, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


INSTALL: Final = "bash /mnt/parts.sh sh:dash kubemux-part:kubemux-part"
LOOK: Final = """
echo "program $(command -v kubemux-part)"
grep -w start /started || true
find /etc/systemd -name '*part.service'
find /etc/rc?.d -name 'S*kubemux-part'
ls /usr/sbin/policy-rc.d* 2>/dev/null || true
"""
NAMED: Final = "installing Debian packages, starting and enabling none of their services: kubemux-part\n"


def test_nothing_is_started_or_enabled_and_nothing_else_left(tmp_path: Path, repository: Path) -> None:
    said = inside(tmp_path, repository, INSTALL + LOOK, CI="true")
    before, _, after = said.partition("program ")
    assert before.startswith(NAMED)
    assert after == "/usr/bin/kubemux-part\n"


def test_the_package_alone_would_start_and_enable_its_service(tmp_path: Path, repository: Path) -> None:
    """Otherwise the test above would show nothing."""
    said = inside(
        tmp_path, repository, "apt-get update -qq; apt-get install -qq -y kubemux-part >/dev/null" + LOOK
    )
    assert "start kubemux-part.service\n" in said
    assert "/etc/systemd/system/multi-user.target.wants/kubemux-part.service\n" in said
    assert "/etc/systemd/system/part.service\n" in said
    assert "/etc/rc2.d/S" in said


def test_a_policy_of_the_machine_is_restored(tmp_path: Path, repository: Path) -> None:
    own = "printf '#!/bin/sh\\nexit 0\\n# mine\\n' > /usr/sbin/policy-rc.d; chmod 700 /usr/sbin/policy-rc.d; "
    said = inside(
        tmp_path,
        repository,
        own + INSTALL + "; cat /usr/sbin/policy-rc.d; stat -c %a /usr/sbin/policy-rc.d" + LOOK,
    )
    assert "# mine\n700\n" in said
    assert said.splitlines()[-1] == "/usr/sbin/policy-rc.d"
    assert "start" not in said.partition("# mine")[2]


@pytest.mark.parametrize(
    ("answer", "installs"), [(b"\n", True), (b"n\n", False), (b"\4", False)], ids=["enter", "no", "end"]
)
def test_a_person_is_asked_before_packages_are_installed(
    tmp_path: Path, repository: Path, answer: bytes, installs: bool
) -> None:
    ours, theirs = pty.openpty()
    try:
        os.write(ours, answer)
        said = inside(tmp_path, repository, INSTALL + LOOK, stdin=theirs)
    finally:
        os.close(ours)
        os.close(theirs)
    assert said.startswith(NAMED)
    assert ("program /usr/bin/kubemux-part" in said) is installs
    assert ("not installed: tests that need them are skipped" in said) is not installs


def test_an_installed_program_is_not_requested(tmp_path: Path, repository: Path) -> None:
    assert inside(tmp_path, repository, "bash /mnt/parts.sh sh:dash bash:bash") == ""
