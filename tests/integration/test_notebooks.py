"""Notebooks: an unmodified ssh reaches them by name, with the Host blocks that `kubemux ssh-config` prints.

A notebook's sshd runs as a user that is not root, on port 2209. Only the jump host resolves its name.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.integration.conftest import gateway
from tests.integration.running import running
from tests.support import pages, ssh_keys
from tests.support.daemon import ROOT, Daemon
from tests.support.echo import pattern
from tests.support.parts import find
from tests.support.ports import free_port
from tests.support.serving import closed
from tests.support.sshd import Sshd

pytestmark = [pytest.mark.sshd, pytest.mark.network]

UID = 1000
PORT = 2209
BASTION = "bastion.example.com"
USUAL = "/run/kubemux-entries/proxy.sock"
HEADINGS = ("ssh", "Without a process for each connection", "From another machine")
USER = "jovyan"
FEW = "10:30:60"
"""MaxStartups: the 11th connection that has not logged in yet may be dropped."""
SECONDS = 90.0


def with_files(*then: str, **files: Path) -> tuple[str, ...]:
    """A command that executes its arguments in a mount namespace where each `/etc/NAME` is another file."""
    mounts = "".join(f"mount --bind {path} /etc/{name} && " for name, path in files.items())
    return ("unshare", "--mount", "sh", "-c", f'{mounts}exec "$@"', "sh", *then)


class Notebook(Sshd):
    """A notebook's sshd. It listens on its own address, so that all notebooks have the same port."""

    def __init__(self, folder: Path, number: int) -> None:
        super().__init__(folder, config={"MaxStartups": FEW})
        self.name = f"nb-{number}.team-a"
        # Each process that runs tests has its own ports, so this address is its own, too.
        self.host = f"127.{100 + self.port // 256}.{self.port % 256}.1"
        self.port = PORT
        self.user = USER
        passwd = folder / "passwd"
        passwd.write_text(f"{USER}:x:{UID}:{UID}::{folder}:/bin/sh\n")
        for path in (folder, *folder.iterdir()):
            os.chown(path, UID, UID)
        self.command = with_files(
            "setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", passwd=passwd
        )


class Bed:
    """A daemon in front of notebooks, and a user's ssh."""

    def __init__(self, folder: Path, count: int, stack: ExitStack) -> None:
        self._folder = folder
        self.entry = folder / "ssh.sock"
        self.notebooks = [Notebook(folder / f"notebook-{number}", number) for number in range(count)]
        (folder / "hosts").write_text("".join(f"{each.host} {each.name}\n" for each in self.notebooks))
        # The commands `kubemux` and `ssh` of the user, on their machine and on the bastion.
        self._path = f"{folder / 'bin'}:{os.environ['PATH']}"
        self.jump = Sshd(folder / "jump", config={"MaxStartups": FEW, "SetEnv": f"PATH={self._path}"})
        self.jump.command = with_files(hosts=folder / "hosts")
        self.identity = self.jump.new_identity("user")
        for sshd in (self.jump, *self.notebooks):
            stack.enter_context(sshd)
        for notebook in self.notebooks:
            notebook.authorize(self.identity)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Daemon]:
        async with running(
            self._folder / "daemon",
            gateways={"jump": gateway(self.jump, connect_timeout="60s")},
            clusters={},
            entries={"proxy": {"listen": f"unix:{self.entry}"}},
            routes=[
                {
                    "name": "notebooks",
                    "match": ["*.team-a:22"],
                    "gateway": "jump",
                    "target": f"{{host}}:{PORT}",
                    # A socket that is passed on still belongs to the user who made it.
                    "allow": [f"uid:{os.getuid()}"],
                }
            ],
        ) as daemon:
            yield daemon

    def ssh_config(self, blocks: str) -> None:
        """A user's ssh_config with these Host blocks, and known_hosts of the bastion and the notebooks."""
        known_hosts = self._folder / "known_hosts"
        hosts = {BASTION: self.jump} | {each.name: each for each in self.notebooks}
        known_hosts.write_text(
            "".join(f"{name} {ssh_keys.public(sshd.host_key)}\n" for name, sshd in hosts.items())
        )
        config = self._folder / "ssh_config"
        config.write_text(
            f"{blocks}\nHost {BASTION}\n    HostName {self.jump.host}\n    Port {self.jump.port}\n"
            f"    User {self.jump.user}\n    HostKeyAlias {BASTION}\n"
            f"Host *\n    User {USER}\n    IdentityFile {self.identity}\n    IdentitiesOnly yes\n"
            f"    UserKnownHostsFile {known_hosts}\n    StrictHostKeyChecking yes\n    BatchMode yes\n"
        )
        programs = {
            "ssh": f"exec {find('ssh')} -F {config}",
            "kubemux": f"PYTHONPATH={ROOT} exec {sys.executable} -m proxy",
        }
        (self._folder / "bin").mkdir(exist_ok=True)
        for name, text in programs.items():
            program = self._folder / "bin" / name
            program.write_text(f'#!/bin/sh\n{text} "$@"\n')
            program.chmod(0o755)

    def ssh(self, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [self._folder / "bin" / "ssh", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PATH": self._path},
        )


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that another user may read, with a path short enough for a unix socket."""
    with tempfile.TemporaryDirectory(prefix="nb") as path:
        Path(path).chmod(0o755)
        yield Path(path)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as one:
        yield one


def printed(daemon: Daemon) -> str:
    """What `kubemux ssh-config` prints for the daemon's configuration."""
    command = [sys.executable, "-m", "proxy", "ssh-config", "--config", str(daemon.config)]
    done = subprocess.run(command, capture_output=True, check=True, cwd=ROOT, text=True, timeout=SECONDS)
    assert done.stdout.count("Host ") == 1
    return done.stdout


async def said(process: subprocess.Popen[bytes], data: bytes = b"") -> tuple[int, bytes, bytes]:
    out, err = await asyncio.to_thread(process.communicate, data, SECONDS)
    return process.returncode, out, err


async def test_an_unchanged_ssh_reaches_a_notebook_by_its_name(folder: Path, stack: ExitStack) -> None:
    """With the printed blocks, and with each recipe of the page, word for word."""
    bed = await asyncio.to_thread(Bed, folder, 1, stack)
    data = pattern(1 << 20)
    async with bed.running() as daemon:
        recipes = [pages.block("docs/entries.md", heading, "sshconfig") for heading in HEADINGS]
        assert all(recipe.count(USUAL) == 1 for recipe in recipes)
        for blocks in (*recipes, await asyncio.to_thread(printed, daemon)):
            bed.ssh_config(blocks.replace(USUAL, str(bed.entry)))
            code, out, err = await said(bed.ssh("nb-0.team-a", "id -u; cat"), data)
            assert (code, err) == (0, b""), blocks
            assert out == b"%d\n" % UID + data
        # As VS Code runs it.
        words = ["-T", "-D", str(free_port()), "-o", "ConnectTimeout=60", "nb-0.team-a", "sh"]
        assert await said(bed.ssh(*words), b"echo $USER\n") == (0, f"{USER}\n".encode(), b"")
        code, out, err = await said(bed.ssh("nb-9.team-a", "true"))
        assert (code, out) == (255, b"")
        assert err.startswith(b"kubemux: nb-9.team-a:22: channel_refused ("), err


async def banner(entry: Path, host: str, stack: AsyncExitStack) -> bytes:
    """The sshd's version line. The connection stays open, without a login, until `stack` ends."""
    reader, writer = await asyncio.open_unix_connection(str(entry))
    stack.push_async_callback(closed, writer)
    writer.write(f"CONNECT {host}:22 HTTP/1.1\r\n\r\n".encode())
    async with asyncio.timeout(SECONDS):
        head = await reader.readuntil(b"\r\n\r\n")
        return head.partition(b"\r\n")[0] + b" " + await reader.readline()


async def test_of_a_hundred_connections_at_once_sshd_drops_none(folder: Path, stack: ExitStack) -> None:
    """A hundred connections, ten to each notebook; none has logged in when the last one arrives.

    With `ssh -J`, the jump host would also have a hundred connections without a login.
    """
    bed = await asyncio.to_thread(Bed, folder, 10, stack)
    async with bed.running() as daemon, AsyncExitStack() as held:
        bed.ssh_config(await asyncio.to_thread(printed, daemon))
        names = [notebook.name for notebook in bed.notebooks]
        # sshd still counts the connections that waited for its version line, until they have ended.
        await asyncio.to_thread(
            daemon.wait_for, "nobody there", lambda: not any(each.sessions() for each in bed.notebooks)
        )
        banners = await asyncio.gather(*(banner(bed.entry, name, held) for name in names * 9))
        assert {line[:47] for line in banners} == {b"HTTP/1.1 200 Connection established SSH-2.0-Ope"}
        ours = await asyncio.gather(*(said(bed.ssh(name, f"echo {name}")) for name in names))
        assert ours == [(0, f"{name}\n".encode(), b"") for name in names]
        await asyncio.to_thread(
            daemon.wait_for,
            "those who wait are still there",
            lambda: daemon.metric("kubemux_entry_connections_active", entry="proxy") == 90,
        )
    logs = [sshd.log() for sshd in (bed.jump, *bed.notebooks)]
    assert not [log for log in logs if "MaxStartups" in log or "drop connection" in log]
