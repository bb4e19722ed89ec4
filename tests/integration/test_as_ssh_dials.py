"""With the same ssh_config, kubemux connects as ssh(1) does: to the same address, from the same local
address, as the same user, through the same jump host or command. It trusts the same host keys, and offers the
same keys and algorithms.

The files come from a grammar (`tests/support/ssh_grammar.py`); a server that refuses every login records what
it sees. Authentication itself is not tested here. One difference is expected: ssh(1) offers a key even if it
cannot sign with it, kubemux does not.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import asyncssh
import pytest

from proxy.config.model import GatewayConfig
from proxy.errors import CredentialsUnusable
from tests.ssh.conftest import failure
from tests.support import ssh_keys
from tests.support.parts import find
from tests.support.ports import free_port
from tests.support.ssh_grammar import ALIAS, Drawn, World, draw
from tests.support.ssh_stub import SshStub, Visit

pytestmark = pytest.mark.sshd

CASES = int(os.environ.get("KUBEMUX_SSH_CASES", "40"))
SEED = int(os.environ.get("KUBEMUX_SSH_SEED", "11"))

PHRASE = "a"

LISTS = ("cipher", "kex", "mac", "host_key")


@dataclass(frozen=True)
class Tried:
    """What the server saw of one client, and what the client printed."""

    visits: list[Visit]
    recorded: list[str]
    said: str


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    keys = [ssh_keys.new_key(folder / "key0"), ssh_keys.new_key(folder / "key1", kind="ecdsa")]
    keys.append(ssh_keys.new_key(folder / "key2", kind="rsa"))
    for name in ("key-alice", "key-given", f"{ALIAS}.key", "key%"):
        ssh_keys.new_key(folder / name)
    ca, certified = ssh_keys.new_key(folder / "ca"), ssh_keys.new_key(folder / "certified")
    ssh_keys.sign(certified, ca=ca, principals="alice")
    elsewhere = ssh_keys.sign(keys[0], ca=ca, principals="alice").rename(folder / "elsewhere.pub")
    host_key, other = ssh_keys.new_key(folder / "host_key"), ssh_keys.new_key(folder / "other_key")
    ports, gate = [free_port(), free_port()], free_port()
    ours, others = ssh_keys.public(host_key), ssh_keys.public(other)
    names = [f"[127.0.0.1]:{port}" for port in (*ports, gate)]
    files = {
        "known0": f"{','.join(names)},[localhost]:{ports[0]},bastion {ours}\nnonsense\n",
        "known1": f"[127.0.0.2]:* {ours}\n!bastion,b* {ours}\n[127.0.0.1]:{ports[0]} {others}\n",
        "known2": f"wrong,[127.0.0.1]:{ports[0]} {others}\n@revoked [127.0.0.2]:{ports[0]} "
        f"{ours}\n127.0.0.2,127.0.0.1 {ours}\n",
        "known_127.0.0.1": f"127.0.0.1 {ours}\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    ssh_keys.hash_hosts(folder / "known_127.0.0.1")
    recorder = folder / "recorder"
    recorder.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {folder}/recorded\nexit 1\n')
    recorder.chmod(0o755)
    public = ssh_keys.new_key(folder / "in_agent")
    return World(
        folder=folder,
        ports=ports,
        gate=gate,
        keys=keys,
        locked=ssh_keys.new_key(folder / "locked", passphrase=PHRASE),
        public=Path(f"{public}.pub"),
        certified=certified,
        elsewhere=elsewhere,
        agent=folder / "agent",
        known_hosts=[folder / "known0", folder / "known1", folder / "known2"],
        recorder=recorder,
    )


@pytest.fixture
def environment(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SSH_AUTH_SOCK", "SSH_ASKPASS", "DISPLAY", "SSH_ASKPASS_REQUIRE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KEYS", str(world.folder))
    monkeypatch.setenv("AGENT", str(world.agent))
    monkeypatch.setenv("SHELL", "/bin/sh")


@asynccontextmanager
async def ssh_agent(world: World) -> AsyncIterator[None]:
    """An agent with two keys: that of `world.public`, whose private key is nowhere else, and one that no
    ssh_config names.
    """
    process = await asyncio.create_subprocess_exec(
        find("ssh-agent") or "ssh-agent", "-D", "-a", str(world.agent), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout
        await process.stdout.readline()  # the agent prints its socket's path when it listens
        async with asyncssh.connect_agent(str(world.agent)) as agent:
            await agent.add_keys(
                [str(world.public.with_suffix("")), asyncssh.generate_private_key("ssh-ed25519")]
            )
        world.public.with_suffix("").unlink()
        yield
    finally:
        process.terminate()
        await process.communicate()


async def as_ssh(world: World, stub: SshStub, drawn: Drawn, file: Path) -> Tried:
    given = [*(["-l", drawn.user] if drawn.user else []), *(["-p", str(drawn.port)] if drawn.port else [])]
    process = await asyncio.create_subprocess_exec(
        *(find("ssh") or "ssh", "-N", "-F", str(file), *given, "--", ALIAS),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(60):
            _, said = await process.communicate()
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    return _tried(world, stub, said.decode(errors="replace"))


async def as_kubemux(world: World, stub: SshStub, drawn: Drawn, file: Path) -> Tried:
    config = GatewayConfig(
        host=ALIAS, ssh_config=file, user=drawn.user, port=drawn.port, connect_timeout=60.0
    )
    found = await failure(config)
    said = f"{'unusable: ' if isinstance(found, CredentialsUnusable) else ''}{found}"
    return _tried(world, stub, said)


def _tried(world: World, stub: SshStub, said: str) -> Tried:
    visits, stub.visits = stub.visits, []
    recorded = world.folder / "recorded"
    lines = recorded.read_text().splitlines() if recorded.exists() else []
    recorded.unlink(missing_ok=True)
    return Tried(visits, lines, said)


def usable(world: World, visit: Visit) -> set[bytes]:
    """The offered keys without the one that cannot sign."""
    locked = asyncssh.read_public_key(f"{world.locked}.pub").public_data
    return visit.offered - {locked}


def compare(world: World, plain: tuple[Visit, Visit], ssh: Tried, ours: Tried) -> None:
    """`plain` is what ssh and kubemux do with an ssh_config that has only the necessary options."""
    in_agent = asyncssh.read_public_key(world.public).public_data
    if "switches host key checking off" in ours.said:  # then kubemux trusts no host key, so it does not dial
        assert not ssh.visits or not ssh.visits[-1].user
        return
    if "gives no key that can be used" in ours.said:
        assert not ssh.visits or not usable(world, ssh.visits[-1]) - {in_agent}
        return
    assert ours.recorded == ssh.recorded
    assert [(visit.at, visit.source, visit.user) for visit in ours.visits] == [
        (visit.at, visit.source, visit.user) for visit in ssh.visits
    ]
    for mine, theirs in zip(ours.visits, ssh.visits, strict=True):
        extra = {in_agent} if in_agent not in mine.offered else set()
        if theirs.at[1] == world.gate:  # it accepts the first key, and ssh(1) offers the certificate second
            assert mine.offered & theirs.offered or not mine.user
        else:
            assert mine.offered == usable(world, theirs) - extra
        for name in LISTS if theirs.lists else ():
            # The order of host key algorithms depends on known_hosts.
            order = sorted if name == "host_key" else list
            if order(theirs.lists[name]) != order(plain[0].lists[name]):
                assert set(mine.lists[name]) <= set(theirs.lists[name])
            elif name != "host_key":
                assert mine.lists[name] == plain[1].lists[name]


async def test_kubemux_dials_the_same_address_as_ssh(world: World, environment: None, tmp_path: Path) -> None:
    random, file = Random(SEED), tmp_path / "ssh_config"  # noqa: S311 - draws test cases
    options: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    host_key = asyncssh.read_private_key(world.folder / "host_key")
    addresses = ["127.0.0.1", "127.0.0.2"]
    async with (
        ssh_agent(world),
        SshStub(host_key, addresses=addresses, ports=world.ports, gate=world.gate) as stub,
    ):
        default = Drawn(
            f"HostName 127.0.0.1\nPort {world.ports[0]}\nBatchMode yes\nUserKnownHostsFile "
            f"{world.known_hosts[0]}\n"
        )
        file.write_text(default.text)
        plain = (
            (await as_ssh(world, stub, default, file)).visits[0],
            (await as_kubemux(world, stub, default, file)).visits[0],
        )
        for case in range(CASES):
            drawn = draw(random, world)
            file.write_text(drawn.text)
            ssh = await as_ssh(world, stub, drawn, file)
            ours = await as_kubemux(world, stub, drawn, file)
            try:
                compare(world, plain, ssh, ours)
            except AssertionError as exc:
                called = f"ssh -N -F FILE -l {drawn.user} -p {drawn.port} -- {ALIAS}"
                raise AssertionError(
                    f"case {case}: {called}\n{drawn.text}\nssh: {ssh}\n\nkubemux: {ours}\n\n{exc}"
                ) from exc
            options += drawn.options
            ends[
                "command"
                if ssh.recorded
                else f"{len(ssh.visits)} dialled, {'as ' + ssh.visits[-1].user if ssh.visits else ''}"
            ] += 1
    for title, counter in (("options drawn", options), ("how far ssh got", ends)):
        sys.stdout.write(f"\n{title}, in {CASES} files\n")
        for name, count in counter.most_common():
            sys.stdout.write(f"{count:6} {name:28} {'#' * min(count, 60)}\n")
    assert ends["command"], "a ProxyCommand was run"
    assert any(end.startswith("2") for end in ends), "a jump host was used"
