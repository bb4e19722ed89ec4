"""Penalties of failures: sshd 10 (PerSourcePenalties) and kubemux treat the same clients in the same way.

Each client has its own address, which is its own source (/32).
"""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Final

import paramiko  # type: ignore[import-untyped]
import pytest
from structlog.testing import capture_logs

from proxy.ssh.server import penalties
from tests.support import ssh_keys
from tests.support.ssh_bed import WAIT_S, SshBed
from tests.support.sshd import NewerSshd

pytestmark = [pytest.mark.sshd, pytest.mark.newer_sshd]

SAME: Final = {
    "authfail": "REFUSED_S",
    "noauth": "NO_LOGIN_S",
    "grace-exceeded": "TIMEOUT_S",
    "min": "LEAST_S",
    "max": "MOST_S",
    "max-sources4": "MOST_SOURCES",
    "max-sources6": "MOST_SOURCES",
}
"""The words of sshd's PerSourcePenalties, and the constants of `penalties` with the same meaning."""
NEW: Final = re.compile(r"ipv4: new (\S+)/32 active penalty of (\d+) seconds")
LATER: Final = re.compile(r"(\S+)/32: activating ipv4 penalty of (\d+) seconds")
LOCKED_OUT: Final = b"Not allowed at this time\r\n"


def source(number: int) -> str:
    return f"127.0.0.{number}"


class Server:
    """kubemux or sshd."""

    def __init__(self, one: SshBed | NewerSshd, told: Callable[[], dict[str, int]]) -> None:
        """`told` returns for how many seconds each source was locked out, from the log."""
        self.told = told
        self.host_key = one.host_key
        self.stranger = one.folder / "stranger"
        self.locked = ssh_keys.new_key(one.folder / "locked", passphrase="x")  # noqa: S106 - not one
        """An authorized key that ssh cannot read without a passphrase."""
        if isinstance(one, SshBed):
            self.listen, self.user, self.good = one.address, "ops", one.ops
            one.authorize("users", "ops", *map(ssh_keys.public, (self.good, self.locked)))
            one.reread()
        else:
            self.listen, self.user, self.good = one.listen, one.user, one.identity
            one.authorize(self.good, self.locked)
            ssh_keys.new_key(self.stranger)

    async def until_told(self, *sources: str) -> dict[str, int]:
        """Wait until these sources are locked out. Returns for how many seconds each is."""
        async with asyncio.timeout(WAIT_S):
            while not set(sources) <= set(self.told()):
                await asyncio.sleep(0.02)
        return self.told()


@pytest.fixture(params=["sshd", "kubemux"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@asynccontextmanager
async def serving(
    kind: str, folder: Path, patch: pytest.MonkeyPatch, settings: Mapping[str, int], *, grace: int = 60
) -> AsyncIterator[Server]:
    """Run sshd or kubemux with these settings, which have sshd's names."""
    if kind == "sshd":
        words = " ".join(f"{word}:{value}s" for word, value in settings.items())
        config = {"PerSourcePenalties": words, "LoginGraceTime": f"{grace}"}
        with NewerSshd(folder / "sshd", config=config) as sshd:

            def told() -> dict[str, int]:
                log = sshd.log()
                return {host: int(number) for host, number in (*NEW.findall(log), *LATER.findall(log))}

            yield Server(sshd, told)
        return
    for word, value in settings.items():
        patch.setattr(penalties, SAME[word], float(value))
    with capture_logs() as logs:
        async with SshBed(folder / "bed", login_timeout=f"{grace}s") as bed:
            yield Server(
                bed,
                lambda: {
                    line["source"]: line["seconds"]
                    for line in logs
                    if line["event"] == "source is closed out"
                },
            )


async def ssh(server: Server, host: str, *keys: Path, host_key: Path | None = None) -> str:
    """Try these keys with OpenSSH's client. Returns its output."""
    known = server.good.with_name(f"known_{host}")
    key = ssh_keys.public(host_key or server.host_key)
    known.write_text(f"[{server.listen.host}]:{server.listen.port} {key}\n")
    options = [
        "BatchMode=yes",
        "IdentitiesOnly=yes",
        "StrictHostKeyChecking=yes",
        "GlobalKnownHostsFile=none",
        f"UserKnownHostsFile={known}",
        *([] if keys else ["IdentityFile=none"]),
    ]
    words = ["ssh", "-F", "none", "-p", str(server.listen.port), "-l", server.user, "-b", host]
    words += [word for one in options for word in ("-o", one)]
    words += [word for key in keys for word in ("-i", str(key))]
    process = await asyncio.create_subprocess_exec(
        *words,
        server.listen.host,
        "true",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(WAIT_S):
        _, said = await process.communicate()
    return said.decode()


async def say(server: Server, host: str, words: bytes, *, waits: bool = True) -> bytes:
    """Send bytes to the server. Returns what it sends first; with `waits`, everything until it closes."""
    reader, writer = await asyncio.open_connection(*server.listen, local_addr=(host, 0))
    said = b""
    with suppress(ConnectionError):
        async with asyncio.timeout(WAIT_S):
            said += await reader.readline()
            writer.write(words)
            said += await reader.read() if waits else b""
    writer.close()
    return said


def try_passwords(server: Server, host: str) -> None:
    """Try three passwords at a server that has only publickey."""
    sock = socket.create_connection(server.listen, timeout=WAIT_S, source_address=(host, 0))
    with closing(paramiko.Transport(sock)) as client:
        client.start_client(timeout=WAIT_S)
        for _ in range(3):
            with pytest.raises(paramiko.BadAuthenticationType):
                client.auth_password(server.user, "x")


Client = Callable[[Server, str], Awaitable[object]]

CLIENTS: Final[Mapping[str, tuple[int | None, Client]]] = {
    "a wrong key, then a good one": (None, lambda one, host: ssh(one, host, one.stranger, one.good)),
    "a port check": (1, lambda one, host: say(one, host, b"", waits=False)),
    "no SSH": (1, lambda one, host: say(one, host, b"GET / HTTP/1.1\r\n\r\n")),
    "our host key is not trusted": (1, lambda one, host: ssh(one, host, one.good, host_key=one.stranger)),
    "a password": (1, lambda one, host: asyncio.to_thread(try_passwords, one, host)),
    "no key": (1, lambda one, host: ssh(one, host)),
    "an unknown key": (5, lambda one, host: ssh(one, host, one.stranger)),
    "a key that it cannot sign with": (5, lambda one, host: ssh(one, host, one.locked)),
}
"""The behaviour of a client, and the penalty of its source in seconds."""


async def test_each_failure_costs_the_same(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {source(n): seconds for n, (seconds, _) in enumerate(CLIENTS.values(), 10)}
    async with serving(kind, tmp_path, monkeypatch, {"min": 0}) as server:
        await asyncio.gather(
            *(come(server, host) for host, (_, come) in zip(wanted, CLIENTS.values(), strict=True))
        )
        told = await server.until_told(*(host for host, seconds in wanted.items() if seconds))
        assert {host: told.get(host) for host in wanted} == wanted


async def test_a_client_that_is_silent_until_the_deadline_gets_the_same_penalty(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(kind, tmp_path, monkeypatch, {"min": 0}, grace=1) as server:
        await say(server, source(10), b"")
        assert (await server.until_told(source(10)))[source(10)] == 10


async def test_failures_add_up_and_lock_one_source_out(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first failure costs less than `min`, which locks nobody out. The sum of two is above `max`."""
    bad, other = source(10), source(11)
    async with serving(kind, tmp_path, monkeypatch, {"authfail": 210, "max": 220, "min": 215}) as server:
        for _ in range(2):
            assert bad not in server.told()
            assert "Permission denied" in await ssh(server, bad, server.stranger)
        assert (await server.until_told(bad))[bad] == 220
        assert await say(server, bad, b"") == LOCKED_OUT
        assert "Permission denied" in await ssh(server, other, server.stranger)


def test_the_defaults_are_the_same(tmp_path: Path) -> None:
    with NewerSshd(tmp_path / "sshd", config={"PerSourcePenalties": "yes"}) as sshd:
        command: list[str | Path] = [sshd.binary, "-T", "-f", sshd.folder / "sshd_config"]
        said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=WAIT_S).stdout
    line = next(line for line in said.splitlines() if line.startswith("persourcepenalties "))
    theirs = dict(word.split(":") for word in line.split()[1:])
    assert {word: int(theirs[word]) for word in SAME} == {
        word: getattr(penalties, name) for word, name in SAME.items()
    }
