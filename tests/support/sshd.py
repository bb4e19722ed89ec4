"""Runs Debian's sshd as an ordinary process, with its own keys and port, and all its files in one folder."""

from __future__ import annotations

import getpass
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Protocol, Self

from proxy.runtime.endpoint import Endpoint
from tests.support import ssh_keys
from tests.support.files import replace
from tests.support.parts import NEWER_SSHD, find
from tests.support.ports import free_port
from tests.support.processes import command, descendants

READY_SECONDS = 60.0
HOST = "127.0.0.1"


@cache
def _penalties() -> str:
    """The option that keeps sshd 9.8 and newer from refusing an address after failures: all tests use one."""
    version = subprocess.run(["ssh", "-V"], check=True, capture_output=True, text=True, timeout=60).stderr
    match = re.match(r"OpenSSH_(\d+)\.(\d+)", version)
    return "PerSourcePenalties no" if match and (int(match[1]), int(match[2])) >= (9, 8) else ""


def _signal(pids: set[int], number: signal.Signals) -> None:
    """Send a signal to those of these processes that are still there."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


class Sshd:
    """One sshd.

    `identity` is a key that it accepts for `user`; `config` overrides or adds sshd_config keywords.

    `folder` holds keys, configuration and log. With `host_certificate` the host key is signed by `host_ca`.
    """

    binary: str | Path = "sshd"

    def __init__(
        self, folder: Path, *, config: Mapping[str, str] | None = None, host_certificate: bool = False
    ) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.host = HOST
        self.port = free_port()
        self.user = getpass.getuser()
        self.host_key = ssh_keys.new_key(folder / "host_key")
        self.host_ca = ssh_keys.new_key(folder / "host_ca")
        self.user_ca = ssh_keys.new_key(folder / "user_ca")
        self._authorized = folder / "authorized_keys"
        self._authorized.touch()
        self.identity = self.new_identity()
        self._log = folder / "sshd.log"
        self._config = dict(config or {})
        if host_certificate:
            self._config["HostCertificate"] = str(
                ssh_keys.sign(self.host_key, ca=self.host_ca, principals=HOST, host=True)
            )
        self.command: tuple[str, ...] = ()
        """A command to run sshd with: it must execute the arguments after its own. Empty: run sshd directly.
        """
        self._process: subprocess.Popen[bytes] | None = None
        self._sessions: set[int] = set()

    def __repr__(self) -> str:
        return f"<Sshd {self.host}:{self.port} {'running' if self._process else 'stopped'}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def listen(self) -> Endpoint:
        """Its address."""
        return Endpoint(self.host, self.port)

    # ------------------------------------------------------------------------------------------ keys

    def new_identity(self, name: str = "identity", *, passphrase: str = "", authorize: bool = True) -> Path:
        """A new user key; with `authorize` sshd accepts it without a certificate."""
        key = ssh_keys.new_key(self.folder / name, passphrase=passphrase)
        if authorize:
            with self._authorized.open("a") as file:
                file.write(f"{ssh_keys.public(key)}\n")
        return key

    def authorize(self, *keys: Path) -> None:
        """Accept these user keys and no others, from the next login on."""
        replace(self._authorized, "".join(f"{ssh_keys.public(key)}\n" for key in keys))

    def new_host_key(self) -> None:
        """Use a new host key from the next start on."""
        self.host_key = ssh_keys.new_key(
            self.folder / f"host_key{len(list(self.folder.glob('host_key*.pub')))}"
        )

    def new_certificate(self, name: str = "certified", *, validity: str = "-1h:+1h") -> tuple[Path, Path]:
        """A user key that sshd accepts only with its certificate: (key, certificate)."""
        key = self.new_identity(name, authorize=False)
        return key, ssh_keys.sign(key, ca=self.user_ca, principals=self.user, validity=validity)

    def known_hosts(
        self, *, hashed: bool = False, authority: bool = False, revoked: bool = False, key: Path | None = None
    ) -> Path:
        """A known_hosts file for this server: with its host key, with its CA (`authority`), or with another
        key (`key`). `revoked` adds a `@revoked` line for the host key.
        """
        names = f"[{self.host}]:{self.port}"
        line = f"@cert-authority {names} {ssh_keys.public(self.host_ca)}" if authority else ""
        line = line or f"{names} {ssh_keys.public(key or self.host_key)}"
        ban = f"@revoked {names} {ssh_keys.public(self.host_key)}\n" if revoked else ""
        path = self.folder / f"known_hosts{len(list(self.folder.glob('known_hosts*')))}"
        path.write_text(f"{ban}{line}\n")
        if hashed:
            ssh_keys.hash_hosts(path)
        return path

    # ------------------------------------------------------------------------------------------ life

    def start(self) -> None:
        """Start sshd. Returns when a client gets its version line.

        If another process uses the port, the first start tries another one; a restart keeps the port.
        """
        first = not self._log.exists()
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        for _ in range(5):
            self._write_config()
            self._process = subprocess.Popen(
                [
                    *self.command,
                    find(str(self.binary)) or "sshd",
                    "-D",
                    "-f",
                    self.folder / "sshd_config",
                    "-E",
                    self._log,
                ],
                stdin=subprocess.DEVNULL,
            )
            if self._ready(self._process):
                return
            self._process = None
            if not first or "Address already in use" not in self.log():
                break
            self.port = free_port()
        raise AssertionError(f"sshd did not start on port {self.port}:\n{self.log()}")

    def stop(self) -> None:
        """End the listener and every session, now. Idempotent."""
        self.kill_listener()
        pids = self._sessions.union(*map(descendants, self._sessions))
        # Not a new process with the same process id
        _signal({pid for pid in pids if "sshd" in command(pid)}, signal.SIGKILL)
        self._sessions.clear()

    def reconfigure(self, config: Mapping[str, str]) -> None:
        """Replace the sshd_config keywords, from the next start on."""
        self._config = dict(config)

    def restart(self) -> None:
        """Stop the listener and all sessions, and start again on the same port with the same keys."""
        self.stop()
        self.start()

    def kill_listener(self) -> None:
        """End the listener alone: sessions live on, new connections are refused."""
        if self._process:
            # Stopped first, so that no session starts between the listing and the kill. The signal acts when
            # the listener runs next: it may be in fork().
            self._process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            self._sessions |= descendants(self._process.pid)
            self._process.kill()
            self._process.wait(timeout=60)
            self._process = None

    def sessions(self) -> set[int]:
        """The process ids of the sessions that are open now."""
        return {pid for pid in self._sessions if command(pid)} | (
            descendants(self._process.pid) if self._process else set()
        )

    def pause(self) -> None:
        """Freeze the listener and every session: the kernel still accepts connections, but
        nothing answers.
        """
        stopped = set[int]()
        while new := self._all() - stopped:  # one of them may have forked before it was stopped
            _signal(new, signal.SIGSTOP)
            stopped |= new

    def resume(self) -> None:
        """Undo `pause`."""
        _signal(self._all(), signal.SIGCONT)

    def signal_sessions(self, number: signal.Signals, pids: set[int]) -> None:
        """Send a signal to those of these sessions that have not ended: one process of each ends with its
        login.
        """
        _signal(self.sessions() & pids, number)

    def log(self) -> str:
        """The log that sshd has written so far."""
        return self._log.read_text() if self._log.exists() else ""

    def logins(self) -> int:
        """How many it has accepted."""
        return self.log().count("Accepted publickey")

    def _all(self) -> set[int]:
        assert self._process, "sshd does not run"
        return {self._process.pid} | self.sessions()

    def _write_config(self) -> None:
        defaults = {
            "ListenAddress": self.host,
            "Port": str(self.port),
            "HostKey": str(self.host_key),
            "AuthorizedKeysFile": str(self._authorized),
            "TrustedUserCAKeys": f"{self.user_ca}.pub",
            "PidFile": "none",
            "UsePAM": "no",
            "StrictModes": "no",
            "PasswordAuthentication": "no",
            "PermitRootLogin": "prohibit-password",
            "LogLevel": "VERBOSE",
            # bash, run by sshd, reads ~/.bashrc unless it is a second-level shell. The developer's own file
            # has no place in a test, and may take 0.15 s of CPU for each login.
            "SetEnv": "SHLVL=1",
            # ssh(1) prefers sntrup761, and Debian's takes 0.13 s of CPU for it. kubemux does not have it.
            "KexAlgorithms": "-sntrup761x25519-sha512*",
        }
        lines = [f"{keyword} {value}" for keyword, value in (defaults | self._config).items()]
        (self.folder / "sshd_config").write_text("\n".join([*lines, _penalties(), ""]))

    def _ready(self, process: subprocess.Popen[bytes]) -> bool:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            # A short deadline would make a second connection, and tests count them in sshd's log.
            with (
                suppress(OSError),
                socket.create_connection((self.host, self.port), timeout=READY_SECONDS) as client,
            ):
                if client.recv(4) == b"SSH-" and process.poll() is None:
                    return True
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.02)
                return False
        process.kill()
        process.wait()
        return False


class NewerSshd(Sshd):
    """Debian 13's sshd, with PerSourcePenalties on: it refuses addresses after failures, also the
    tests' own.
    """

    binary = NEWER_SSHD

    def __init__(self, folder: Path, *, config: Mapping[str, str] | None = None) -> None:
        programs = {
            "SshdSessionPath": str(NEWER_SSHD.with_name("sshd-session")),
            "SshdAuthPath": str(NEWER_SSHD.with_name("sshd-auth")),
        }
        super().__init__(folder, config={**programs, "PerSourcePenalties": "yes", **(config or {})})


class SshdFactory(Protocol):
    """Starts another sshd for the running test."""

    def __call__(
        self, *, config: Mapping[str, str] | None = None, host_certificate: bool = False
    ) -> Sshd: ...
