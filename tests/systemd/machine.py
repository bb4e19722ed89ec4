"""A machine for the real unit files: systemd as PID 1 of its own namespaces, with its own view of the file
system.

The unit runs unchanged. `/opt/kubemux`, `/etc/kubemux` and all folders that an installation writes to are
bind mounts, which exist only in the namespace. The network namespace only has loopback, so the ports of the
shipped files are free. Users and groups come only from /etc, as on a Debian without libnss-systemd. Needs
root.
"""

from __future__ import annotations

import secrets
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

Found = TypeVar("Found")

CHECKOUT: Final = Path(__file__).parents[2]
PATIENCE: Final = 120.0
"""Seconds to wait for a state."""

# Targets that the shipped units need; the distribution's own would start a whole system.
_STUB_TARGETS: Final = ("sysinit", "basic", "sockets", "shutdown")
# systemd forgets a stopped unit, and its exit code, if no other unit refers to it.
_BOOT_TARGET: Final = "[Unit]\nDefaultDependencies=no\nAfter=kubemux.service kubemux.socket\n"

# A cgroup of our own first, so that PID 1 takes that for the root of the tree and leaves nothing in this
# machine's; the tmpfs below it because a file system cannot be mounted twice on one place. /proc/sys is
# read-only, since PID 1 raises fs.file-max and others, which are not namespaced. Mounts are shared among the
# namespaces below this one, as on a real machine: credentials reach a service that way.
_BOOT: Final = """
set -e
mount -t tmpfs tmpfs /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
mkdir /sys/fs/cgroup/$NAME
echo $$ > /sys/fs/cgroup/$NAME/cgroup.procs
exec unshare --pid --fork --kill-child --mount --mount-proc --uts --ipc --net --cgroup \
    --propagation private sh -ec '
    mount --bind /proc/sys /proc/sys
    mount -o remount,bind,ro /proc/sys
    mount -t tmpfs tmpfs /run
    mkdir /run/systemd
    mount -t tmpfs tmpfs /sys/fs/cgroup
    mount -t cgroup2 none /sys/fs/cgroup
    mount --bind $ROOT/etc /etc
    mount --bind $BASE $ROOT/opt/python
    mount --bind $SITE $ROOT/opt/site
    mount --bind $CHECKOUT/proxy $ROOT/opt/checkout/proxy
    mount --rbind $ROOT/opt /opt
    mount --bind $ROOT/local /usr/local
    mount --bind $ROOT/var /var/lib
    mount -t tmpfs tmpfs /root
    mount -t tmpfs tmpfs /home
    for module in /lib/*/libnss_systemd.so.2; do [ ! -e $module ] || mount --bind /dev/null $module; done
    mount --make-rshared /
    exec /lib/systemd/systemd --unit=test.target --log-target=null'
"""
_SWEEP: Final = """
set -e
mount -t tmpfs tmpfs /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
! [ -e /sys/fs/cgroup/$NAME ] || find /sys/fs/cgroup/$NAME -depth -type d -exec rmdir {} +
"""

# Not a virtual environment: its interpreter finds its shared library by an absolute path, which ProtectHome=
# may hide.
_PROGRAM: Final = """#!/bin/sh
export LD_LIBRARY_PATH=/opt/python/lib PYTHONPATH=/opt/checkout:/opt/site PYTHONDONTWRITEBYTECODE=1
exec /opt/python/bin/{python} -m proxy "$@"
"""
_ETC: Final = {
    "passwd": "root:x:0:0:root:/root:/bin/bash\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    "sshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n"
    "tunnel:*:101:65534::/nonexistent:/usr/sbin/nologin\n"
    "me:*:1000:1000::/home/me:/bin/bash\n",
    "group": "root:x:0:\nnogroup:x:65534:\nme:x:1000:\n",
    # Without `systemd`, as on a Debian without libnss-systemd: a uid of DynamicUser= then has no name and no
    # home.
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "hosts": "127.0.0.1 localhost bastion.eu.example.com\n::1 localhost\n",
    "machine-id": "6b75626d75782d746573742d6d616368\n",
}


class Machine:
    """One booted systemd, which runs only the units it is given. Use as a context manager."""

    def __init__(self, root: Path, *, is_installed: bool = True) -> None:
        """`root` is an empty folder for its files. `drop_in` and `config` may be changed before and after
        boot.

        With `is_installed` it has the units, and runs kubemux from this checkout.
        """
        self.root = root
        self.log = root / "kubemux.log"
        self.log.touch()
        self._boot_log = root / "boot.log"
        self.config = root / "etc/kubemux/config.yaml"
        self.units = root / "etc/systemd/system"
        bound = ("opt/python", "opt/site", "opt/checkout/proxy", "local/bin", "var/systemd")
        for folder in (self.units, *map(root.joinpath, bound)):
            folder.mkdir(parents=True, mode=0o755)
        for name, text in _ETC.items():
            (root / "etc" / name).write_text(text)
        for target in _STUB_TARGETS:
            (self.units / f"{target}.target").write_text("[Unit]\nDefaultDependencies=no\n")
        (self.units / "test.target").write_text(_BOOT_TARGET)
        if is_installed:
            self.config.parent.mkdir(mode=0o755)
            for unit in ("kubemux.service", "kubemux.socket", "kubemux-entry@.socket"):
                shutil.copy(CHECKOUT / "systemd" / unit, self.units)
            program = root / "opt/kubemux/bin/kubemux"
            program.parent.mkdir(parents=True)
            program.write_text(_PROGRAM.format(python=f"python3.{sys.version_info.minor}"))
            program.chmod(0o755)
        self.drop_in("log", f"[Service]\nStandardOutput=append:{self.log}\nStandardError=inherit\n")

    def drop_in(self, name: str, text: str) -> None:
        """Add `text` to kubemux.service, as `systemctl edit` would."""
        folder = self.units / "kubemux.service.d"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.conf").write_text(text)

    def __enter__(self) -> Self:
        self._env = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "container": "lxc",
            "SYSTEMD_UNIT_PATH": "/etc/systemd/system",
            "NAME": f"kubemux-test-{secrets.token_hex(4)}",
            "ROOT": str(self.root),
            "BASE": sys.base_prefix,
            "SITE": sysconfig.get_path("purelib"),
            "CHECKOUT": str(CHECKOUT),
        }
        with self._boot_log.open("w") as log:
            boot = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _BOOT]
            self._boot = subprocess.Popen(
                boot, env=self._env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            self._init = self.wait(self._find_init, "systemd to start")
            self.wait(
                lambda: self.systemctl("show-environment", check=False).returncode == 0, "systemd to answer"
            )
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._boot.kill()  # unshare --kill-child kills PID 1, which ends its namespace
        self._boot.wait()
        sweep = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _SWEEP]
        self.wait(
            lambda: subprocess.run(sweep, env=self._env, capture_output=True).returncode == 0,
            "cgroups to empty",
        )

    def _find_init(self) -> str:
        if self._boot.poll() is not None:
            raise AssertionError(f"systemd did not boot:\n{self._boot_log.read_text()}")
        children = Path(f"/proc/{self._boot.pid}/task/{self._boot.pid}/children").read_text().split()
        try:
            is_systemd = bool(children) and Path(f"/proc/{children[0]}/comm").read_text() == "systemd\n"
        except (FileNotFoundError, ProcessLookupError):
            return ""  # a `mount` of the boot script that has ended meanwhile
        return children[0] if is_systemd else ""

    def run(
        self, *command: str, check: bool = True, timeout: float = 180
    ) -> subprocess.CompletedProcess[str]:
        """Run `command` inside, with a deadline. Raises AssertionError, with its output, if it fails."""
        done = subprocess.run(
            ["nsenter", "-t", self._init, "-m", "-p", "-n", "--", *command],
            env={"PATH": self._env["PATH"]},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}\n{self.report()}"
        return done

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start `command`, with pipes for its input and output. It ends with the machine at the latest."""
        return subprocess.Popen(
            ["nsenter", "-t", self._init, "-m", "-p", "-n", "--", *command],
            env={"PATH": self._env["PATH"]},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @contextmanager
    def background(self, *command: str) -> Iterator[None]:
        """Run `command` while the block runs. It ends with the machine at the latest."""
        enter = ["nsenter", "-t", self._init, "-m", "-p", "-n", "--", *command]
        nothing = subprocess.DEVNULL
        process = subprocess.Popen(
            enter, env={"PATH": self._env["PATH"]}, stdin=nothing, stdout=nothing, stderr=nothing
        )
        try:
            yield
        finally:
            process.kill()
            process.wait()

    def systemctl(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`systemctl WORDS` inside."""
        return self.run("systemctl", *words, check=check)

    def show(self, *names: str, unit: str = "kubemux.service") -> dict[str, str]:
        """Properties of `unit`, as `systemctl show` prints them."""
        lines = self.systemctl("show", unit, f"--property={','.join(names)}").stdout.splitlines()
        return dict(line.split("=", 1) for line in lines)

    def until(self, *, unit: str = "kubemux.service", **expected: str) -> None:
        """Wait until these properties of `unit` have these values."""
        self.wait(lambda: self.show(*expected, unit=unit) == expected, f"{unit} to be {expected}")

    def wait(self, found: Callable[[], Found], what: str) -> Found:
        """Poll `found` until it is true. systemd reports state changes only to D-Bus clients, so there is no
        event to wait for.
        """
        deadline = time.monotonic() + PATIENCE
        while not (result := found()):
            assert time.monotonic() < deadline, f"waited {PATIENCE:.0f} s for {what}\n{self.report()}"
            time.sleep(0.1)
        return result

    def report(self) -> str:
        """The unit's state and log, for the message of a failed test."""
        status = ["systemctl", "status", "--no-pager", "kubemux.service"]
        state = subprocess.run(
            ["nsenter", "-t", getattr(self, "_init", "0"), "-m", "-p", "--", *status],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return f"{state.stdout}{state.stderr}\n--- log\n{self.log.read_text()}"
